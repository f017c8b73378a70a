#!/usr/bin/env python3
"""Writes src/text/unicode_data.c: where the Unicode tables of PCRE2 and utf8proc differ from those that tokenizer.json files are read with.

The reference is the `tokenizers` package itself, asked about every code point. Its parts know different versions of Unicode: the regexes
(Oniguruma) 16, Rust's own character predicates 16 or 17, the normalizers 9. Needs Python 3.11 (whose unicodedata is version 14, as is
PCRE2 10.40 to 10.42) with `tokenizers` installed, and a Python 3.6 (unicodedata 9) named in the environment variable PYTHON36.

    PYTHON36=python3.6 python3.11 scripts/make_unicode_data.py > src/text/unicode_data.c
"""
import json
import os
import subprocess
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari Armenian".split()


def removed_by(pre_tokenizer):
    """The code points that a pre-tokenizer which removes its matches takes out."""
    out = set()
    for i in range(0, len(POINTS), 8192):
        chunk = POINTS[i:i + 8192]
        kept = bytearray(len(chunk))
        for _, (a, b) in pre_tokenizer.pre_tokenize_str("".join(map(chr, chunk))):
            kept[a:b] = b"\1" * (b - a)
        out.update(c for c, k in zip(chunk, kept) if not k)
    return out


def matching(pattern):
    return removed_by(pre_tokenizers.Split(Regex(pattern), "removed"))


def single_pieces(pre_tokenizer, after):
    """The code points c for which a pre-tokenizer makes a piece of exactly c where c stands before `after`."""
    out = set()
    step = 1 + len(after)
    for i in range(0, len(POINTS), 2048):
        chunk = POINTS[i:i + 2048]
        pieces = {a: b for _, (a, b) in pre_tokenizer.pre_tokenize_str("".join(chr(c) + after for c in chunk))}
        out.update(c for j, c in enumerate(chunk) if pieces.get(j * step) == j * step + 1)
    return out


def ranges(points, key=lambda c: None):
    out = []
    for c in sorted(points):
        if out and out[-1][1] + 1 == c and out[-1][2] == key(c):
            out[-1][1] = c
        else:
            out.append([c, c, key(c)])
    return out


def table(comment, declaration, rows):
    print(f"\n// {comment}\n{declaration} = {{")
    line = " "
    for row in rows:
        if len(line) + len(row) + 2 > 138:
            print(line)
            line = " "
        line += f" {row},"
    print(line)
    print("};")


def main():
    assert unicodedata.unidata_version == "14.0.0", "run this with Python 3.11: its unicodedata must be Unicode 14"
    category = {c: g for g in CATEGORIES for c in matching(r"\p{%s}" % g)}
    script = {c: s for s in SCRIPTS for c in matching(r"\p{%s}" % s)}
    unicode9 = json.loads(subprocess.check_output([os.environ["PYTHON36"], "-c", "import unicodedata as u, json\n"
        "assert u.unidata_version == '9.0.0'\nprint(json.dumps([c for c in range(0x110000) if u.category(chr(c)) != 'Cn']))"]))
    unicode9 = set(unicode9)

    changed = {c for c in POINTS if category[c] != unicodedata.category(chr(c))}
    moved = {c for c in changed if unicodedata.category(chr(c)) != "Cn"}
    assert moved == {0x1171E} and category[0x1171E] == "Mc", moved  # unicode.c shows this one as another Mc
    added = changed - moved

    numeric = single_pieces(pre_tokenizers.Digits(individual_digits=True), "x")
    word = single_pieces(pre_tokenizers.Whitespace(), "- ")

    # The normalizers take what they do not know for a starter that nothing composes with. Listed are the code points that a newer
    # library could treat otherwise: with a combining class or a decomposition by Unicode 14, marks, and all that is newer than 14.
    def may_differ(c):
        ch = chr(c)
        return (unicodedata.combining(ch) or unicodedata.decomposition(ch) or category[c][0] == "M"
                or unicodedata.category(ch) == "Cn")
    inert = {c for c in POINTS if c not in unicode9 and category[c] != "Cn" and may_differ(c)}
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    inert |= {c for c in POINTS if unicodedata.decomposition(chr(c)) and nfkd.normalize_str(chr(c)) != unicodedata.normalize("NFKD",
        chr(c))}
    inert |= {c for c in (0x11930,)}  # U+11935 U+11930 compose from Unicode 13 on
    for c in inert:
        s = chr(c)
        assert nfkd.normalize_str("\u0345" + s + "\u0334") in ("\u0345" + s + "\u0334",), hex(c)

    lowercase = normalizers.Lowercase()
    lower = {}
    for c in POINTS:
        low = lowercase.normalize_str(chr(c))
        if low != chr(c).lower() or (low != chr(c) and c not in unicode9):
            assert len(low) == 1, hex(c)
            lower[c] = ord(low) - c

    print("// Made by scripts/make_unicode_data.py; do not edit. What the Unicode tables of PCRE2 and utf8proc lack of those that\n"
          "// Hugging Face tokenizers use, and the character sets of pre-tokenizers that are not regexes.\n"
          '#include "text/internal.h"')
    table("Characters that Unicode 16 has and Unicode 14 (PCRE2 10.40 to 10.42) lacks, with category and script.",
          "const zmi_added_char zmi_added_chars[]",
          [f'{{{a:#x}, {b:#x}, "{g[0]}", {g[1]}}}' for a, b, g in
           ranges(added, lambda c: (category[c], "SCRIPT_" + script[c].upper() if c in script else "SCRIPT_OTHER"))])
    print("const size_t zmi_added_char_count = ZMI_COUNT(zmi_added_chars);")
    for name, comment, points in (("numeric", "Numbers as the Digits pre-tokenizer sees them.", numeric),
                                  ("word", r"Word characters as the Whitespace pre-tokenizer and single_word tokens see them.", word),
                                  ("inert", "Characters newer than the normalizers of the reference, which leave them alone.", inert)):
        table(comment, f"const zmi_char_range zmi_{name}_ranges[]", [f"{{{a:#x}, {b:#x}}}" for a, b, _ in ranges(points)])
        print(f"const size_t zmi_{name}_range_count = ZMI_COUNT(zmi_{name}_ranges);")
    table("Lower-case letters of characters that utf8proc may not know, as distances.", "const zmi_lower_range zmi_lower_ranges[]",
          [f"{{{a:#x}, {b:#x}, {d}}}" for a, b, d in ranges(lower, lambda c: lower[c])])
    print("const size_t zmi_lower_range_count = ZMI_COUNT(zmi_lower_ranges);")


if __name__ == "__main__":
    sys.exit(main())
