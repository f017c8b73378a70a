#!/usr/bin/env python3
"""Compares zmlx with Hugging Face `tokenizers` on many texts: ids of encoding, texts of decoding at once and streamed. Prints one line a
tokenizer.json and exits with 1 if anything differs.

    python3 scripts/compare_tokenizer.py DRIVER [--random N] [--points] [--long] [--seed S] tokenizer.json...

DRIVER is the program tokenize_lines of the build folder. Of most tokenizers a variant is compared too that has no
merges and puts a space before each piece, so that every split shows. --points: every code point of Unicode, in several surroundings.
--long: texts of 1 MB.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tokenizer_texts import hard_texts, random_texts  # noqa: E402


class Driver:
    def __init__(self, program, path):
        self.process = subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, size):
        data = self.process.stdout.read(size)
        if len(data) != size:
            raise SystemExit(f"the driver ended early ({self.process.wait()})")
        return data

    def ask(self, flags, data):
        self.process.stdin.write(struct.pack("<BI", flags, len(data)) + data)
        self.process.stdin.flush()
        status, = struct.unpack("<i", self.read(4))
        if status:
            return status, None, None
        count, = struct.unpack("<I", self.read(4))
        ids = list(struct.unpack(f"<{count}i", self.read(4 * count)))
        size, = struct.unpack("<I", self.read(4))
        return 0, ids, self.read(size)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def check(driver, t, texts, rng, report):
    for i, s in enumerate(texts):
        flags = rng.randrange(8)
        t.encode_special_tokens = bool(flags & 2)
        ids = t.encode(s, add_special_tokens=bool(flags & 1)).ids
        text = t.decode(ids, skip_special_tokens=bool(flags & 4)).encode()
        report.total += 1
        status, got, got_text = driver.ask(flags, s.encode())
        if (status, got, got_text) != (0, ids, text):
            report.add(s, flags, ids, got, text, got_text)


def check_decoding(driver, t, count, rng, report):
    size = max(t.get_vocab(True).values()) + 1
    for _ in range(count):
        ids = [rng.randrange(size) for _ in range(rng.randrange(1, 40))]
        flags = 8 | rng.randrange(2) * 4
        text = t.decode(ids, skip_special_tokens=bool(flags & 4)).encode()
        report.total += 1
        status, _, got_text = driver.ask(flags, struct.pack(f"<{len(ids)}i", *ids))
        if (status, got_text) != (0, text):
            report.add(ids, flags, ids, ids, text, got_text)


class Report:
    def __init__(self):
        self.total = self.bad = 0

    def add(self, s, flags, ids, got, text, got_text):
        self.bad += 1
        if self.bad > 5:
            return
        if isinstance(s, str) and len(s) > 300:
            s = s[:300] + "..."
        print(f"  differs, flags {flags}: {s!a}")
        got = got or []
        at = next((i for i, (a, b) in enumerate(zip(ids, got)) if a != b), min(len(ids), len(got)))
        print(f"    from id {at} on of {len(ids)} and {len(got)}: expected {ids[at:at + 8]}, found {got[at:at + 8]}; "
              f"text {'same' if text == got_text else (text[:120], got_text and got_text[:120])}")


def every_point():
    """Texts in which each code point stands alone, doubled, and beside letters, digits, marks, white and punctuation."""
    parts = []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            continue
        ch = chr(c)
        parts.append(f"a{ch}b {ch} 1{ch}{ch}2 .{ch}! \n{ch}\n{ch}\u0301{ch}\u0316\u0334 x'{ch}s{ch}")
        if len(parts) == 100:
            yield "".join(parts)
            parts = []
    yield "".join(parts)


def long_texts(rng):
    n = 1_000_000
    yield " " * n
    yield " " * n + "x"
    yield "a" * n
    yield "ab" * (n // 2)
    yield "1" * n
    yield "\n" * n
    yield " \n" * (n // 2)
    yield "!" * n
    yield "中" * (n // 3)
    yield "\u0301" * (n // 2)
    yield "e\u0316\u0301" * (n // 5)
    yield "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n))
    yield "".join(rng.choice("  \n\t\r") for _ in range(n))
    yield " the" * (n // 4)
    yield "<|im_start|>" * (n // 12)
    yield "<|" * (n // 2)


def visible(text):
    """The tokenizer with the bare alphabet, and a space put before each piece of its pre-tokenizer."""
    j = json.loads(text)
    pre = j["pre_tokenizer"]
    if not pre:
        return None
    steps = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    if steps[-1]["type"] != "ByteLevel" or steps[-1].get("use_regex", True):
        return None
    steps[-1]["add_prefix_space"] = True
    j["added_tokens"] = []
    j["post_processor"] = None
    j["model"]["vocab"] = {chr(c): i for i, c in enumerate([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)])}
    j["model"]["merges"] = []
    j["model"]["unk_token"] = None
    return json.dumps(j)


def run(args, name, text, report, points):
    rng = random.Random(f"{args.seed} {name}")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        t = Tokenizer.from_str(text)
        driver = Driver(args.driver, f.name)
        added = [a.content for a in t.get_added_tokens_decoder().values()]
        check(driver, t, hard_texts(), rng, report)
        check(driver, t, random_texts(rng, args.random, added), rng, report)
        check_decoding(driver, t, args.random // 4, rng, report)
        if points:
            check(driver, t, every_point(), rng, report)
        if args.long:
            check(driver, t, long_texts(rng), rng, report)
        driver.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--random", type=int, default=1000)
    parser.add_argument("--points", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bad = total = 0
    for path in args.files:
        text = open(path, encoding="utf-8").read()
        shown = visible(text)
        variants = [(path, text, args.points and not shown)]
        if shown:
            variants.append((path + " (splits shown)", shown, args.points))
        for name, source, points in variants:
            report = Report()
            run(args, name, source, report, points)
            print(f"{name}: {report.total} texts, {report.bad} differ", flush=True)
            bad += report.bad
            total += report.total
    print(f"{total} texts, {bad} differ")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
