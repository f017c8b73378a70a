#!/usr/bin/env python3
"""Makes tests/data/tokenizers: small tokenizer.json files that use each part a byte-level tokenizer can have, and cases.bin, hard texts
with the ids and decoded texts that Hugging Face `tokenizers` gives for them.

    python3 scripts/make_tokenizer_cases.py

The tokenizer of the shipped checkpoint gets cases too. tests/test_tokenizer.c tells the format of cases.bin.
"""
import json
import os
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tokenizer_texts import hard_texts, random_texts  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OUT = os.path.join("tests", "data", "tokenizers")
SHIPPED = os.path.join("checkpoints", "storyteller-4bit", "tokenizer.json")

CORPUS = """The quick brown fox jumps over the lazy dog. She said: "I'll go, they're here, we've won, it's 3.14159 and 2,718,281!"
def encode(text):\n    return [token for token in split(text) if token is not None]\n\n\tfor (int i = 0; i < 1000; i++) { sum += a[i]; }
Ein großer Bär aß süße Äpfel. Où est l'été? El niño comió piñas. Съешь же ещё этих мягких французских булок. Ξεσκεπάζω τὴν ψυχοφθόρα.
今日は良い天気ですね。東京タワー。 中文分词很有意思，今天天气很好。 한국어 토큰화는 재미있습니다. שלום עולם مرحبا بالعالم नमस्ते दुनिया
DON'T SHOUT, WE'RE FINE. HTTP/1.1 200 OK   \n\n\n    indented    twice\t\ttabs 12345 67 890 ١٢٣ १२३
the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but not what all were
""" * 3

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + SHORT + r"|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" + SHORT +
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PARTS = [r"\bword\b", r"\w{2,3}+", r"[^\S\n]+", r"\d{,2}x", r"\h+;", r"(?<=\.)\p{Lu}", "^#", r"(?:ab|a)c?+", r"[\]\-^a-c\\]", r"\Az",
         r"[\W\d]&",
         r"\p{Greek}+", "[[aeiou]&&[^e]]", r"(?i:[k-l]+')?x{2}", r"\u00e9\x{e8}?", "[a[^a-zA-Z]]b", r"[^\S\d]", r"[\P{L}\P{N}]1"]
SETS = [r"\p{Mn}+", r"\p{Mc}", r"[\p{Me}\p{Sk}]", r"\p{Han}+", r"\p{Hiragana}+", r"\p{Katakana}+", r"\p{Hangul}+",
        r"\p{Latin}+", r"\p{Cyrillic}+", r"\p{Arabic}+", r"\p{Hebrew}+", r"\p{Thai}+", r"\p{Devanagari}+", r"\p{Armenian}+",
        r"\p{Greek}+", r"\p{Nd}+",
        r"\p{Nl}+", r"\p{No}+", r"\p{Sm}+", r"\p{Sc}+", r"\p{So}+", r"\p{Pd}+", r"\p{Zs}+", r"\P{L}"]
DEEPSEEK3 = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
DEEPSEEK1 = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def train(pre, size=420, normalizer=None, tokens=("<|endoftext|>",), alphabet=True, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre if not isinstance(pre, list) else pre_tokenizers.Sequence(pre)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(tokens), show_progress=False, min_frequency=2,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet else [])
    t.train_from_iterator(CORPUS.split("\n"), trainer)
    t.decoder = decoders.ByteLevel()
    return t


def frame(t, single="<s> $A", tokens=("<s>",)):
    return processors.TemplateProcessing(single=single, pair="$A $B", special_tokens=[(x, t.token_to_id(x)) for x in tokens])


def edited(t, edit):
    j = json.loads(t.to_str())
    edit(j)
    return Tokenizer.from_str(json.dumps(j)), j


def samples():
    """name -> (Tokenizer, the file's JSON as an object or None where the tokenizer's own will do)"""
    out = {}

    def add(name, t, j=None):
        out[name] = (t, j)

    t = train(byte_level(regex=True))
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    add("gpt2", t)
    add("gpt2_legacy_merges", *edited(t,
                                      lambda j: j["model"].update(merges=["#version: 0.2"] + [" ".join(m) for m in j["model"]["merges"]])))

    t = train(byte_level(prefix=True, regex=True), tokens=("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    add("roberta", t)

    t = train([split(LLAMA3), byte_level()], tokens=("<s>", "</s>", "<|eot|>"), size=480, ignore_merges=True)
    t.add_special_tokens(["<|extra_0|>", "<|extra_1|>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame(t)])
    add("llama3", t)

    t = train([split(QWEN2), byte_level()], normalizer=normalizers.NFC(), tokens=("<|im_start|>", "<|im_end|>"))
    t.add_tokens([AddedToken("<tool_call>", normalized=False, special=False), AddedToken("</tool_call>", normalized=False, special=False)])
    add("qwen2", t)
    add("qwen35", train([split(QWEN35), byte_level()], normalizer=normalizers.NFC()))
    add("cl100k", train([split(CL100K), byte_level()]))
    add("o200k", train([split(O200K), byte_level()]))
    add("kimi", train([split(KIMI), byte_level()]))
    add("deepseek3", train([split(p) for p in DEEPSEEK3] + [byte_level()]))
    add("deepseek1", train([split(p) for p in DEEPSEEK1] + [pre_tokenizers.Digits(individual_digits=True), byte_level()]))
    add("starcoder", train([pre_tokenizers.Digits(individual_digits=True), byte_level(regex=True)]))
    add("digits_together", train([pre_tokenizers.Digits(individual_digits=False), byte_level(prefix=True)]))
    add("falcon", train([byte_level(regex=True), pre_tokenizers.Digits(individual_digits=False), split(r"[0-9][0-9][0-9]")]))
    add("byte_normalizer", train(split(" ?[^ ]+"), normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()])))

    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            name = f"split_{behavior}{'_invert' if invert else ''}"
            add(name, train([split(r"[\s,.]", behavior, invert), byte_level(prefix=True)], size=300))
    add("split_string", train([pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Split("--", "contiguous"),
                               byte_level(prefix=True)]))
    add("split_empty", train([split(r"x*", "isolated"), byte_level(prefix=True)], size=300))
    add("whitespace", train([pre_tokenizers.Whitespace(), byte_level(prefix=True)]))
    add("whitespace_split", train([pre_tokenizers.WhitespaceSplit(), byte_level()]))
    add("regex_parts", train([split("|".join(PARTS)), byte_level(prefix=True)]))
    add("regex_sets", train([split("|".join(SETS)), byte_level(prefix=True)]))
    add("regex_anchors", train([split(r"(?:\r?$|^\s*|\Za|a\z)(?i)x|y(?-i)y|\B\W{1,}?\B"), split(r"(?>a+)b|a.c|(?m:d.e)|(?<!\d)\d+?(?=\D)"),
                                byte_level(prefix=True)]))

    t = train([split(GPT2), byte_level()], normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    t.add_tokens([AddedToken("Ärger", normalized=True), AddedToken("aa"), AddedToken("aab"), AddedToken("one", single_word=True),
                  AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=False),
                  AddedToken("[LR]", lstrip=True, rstrip=True, normalized=False), AddedToken("[S]", single_word=True, normalized=False),
                  AddedToken(" [B]", normalized=False), AddedToken("<a>", normalized=False), AddedToken("<a><b>", normalized=False)])
    t.add_special_tokens([AddedToken("<SPECIAL>", normalized=True), AddedToken("<ſ>", normalized=False)])
    add("added", t)

    for name, n in (("nfd", normalizers.NFD()), ("nfkd", normalizers.NFKD()), ("nfkc", normalizers.NFKC()), ("lowercase",
        normalizers.Lowercase()),
                    ("strip", normalizers.Strip()), ("strip_left", normalizers.Strip(right=False)),
                    ("replace", normalizers.Sequence([normalizers.Replace("ab", "b"), normalizers.Replace(Regex(r"\s{2,}|e(?=n)"), " "),
                                                      normalizers.Prepend("_")]))):
        add(name, train([split(r"\p{L}+|\s+"), byte_level()], normalizer=n, size=320))

    # Characters instead of bytes, as SentencePiece models were converted.
    t = train(split("▁", "merged_with_next"), normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
              tokens=["<unk>", "<s>"] + [f"<0x{b:02X}>" for b in range(256)], alphabet=False, size=640, unk_token="<unk>",
              fuse_unk=True, byte_fallback=True)
    t.decoder = decoders.Fuse()
    add("characters", t)
    def no_byte(j, fuse):
        j["model"]["vocab"] = {k: v for k, v in j["model"]["vocab"].items() if not k.startswith("<0x") or v % 3}
        j["added_tokens"] = [a for a in j["added_tokens"] if a["content"] in j["model"]["vocab"] and not a["content"].startswith("<0x")]
        j["model"]["fuse_unk"] = fuse
    add("unknown_fused", *edited(t, lambda j: no_byte(j, True)))
    add("unknown_single", *edited(t, lambda j: no_byte(j, False)))
    t = train(pre_tokenizers.WhitespaceSplit(), alphabet=False, size=300)
    t.decoder = None
    j = json.loads(t.to_str())
    j["decoder"] = None
    add("characters_joined", Tokenizer.from_str(json.dumps(j)), j)
    return out


def main():
    os.chdir(ROOT)
    os.makedirs(OUT, exist_ok=True)
    files = {}
    for name, (t, j) in samples().items():
        files[os.path.join(OUT, name + ".json")] = json.dumps(j if j is not None else json.loads(t.to_str()), ensure_ascii=False,
                                                              separators=(",", ":"))
    for path, text in files.items():
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    files[SHIPPED] = open(SHIPPED, encoding="utf-8").read()
    # Texts once; then of each tokenizer, text by text: flags, ids as 16-bit numbers, and the decoded text where it is another one.
    texts = hard_texts() + random_texts(random.Random(1), 60, ["<s>", "</s>", "<|endoftext|>", "<mask>", "<|im_end|>", "<|extra_1|>",
                                                               " [B]"])
    cases = bytearray(b"ZMTC") + struct.pack("<I", len(texts))
    for s in texts:
        cases += struct.pack("<I", len(s.encode())) + s.encode()
    cases += struct.pack("<I", len(files))
    for name, text in files.items():
        t = Tokenizer.from_str(text)
        cases += struct.pack("<I", len(name)) + name.encode()
        for i, s in enumerate(texts):
            flags = i % 4  # 1: add special tokens, 2: special tokens as plain text, 4: the decoded text follows
            t.encode_special_tokens = bool(flags & 2)
            ids = t.encode(s, add_special_tokens=bool(flags & 1)).ids
            decoded = t.decode(ids, skip_special_tokens=False)
            flags |= 4 * (decoded != s)
            cases += struct.pack("<BI", flags, len(ids)) + struct.pack(f"<{len(ids)}H", *ids)
            if decoded != s:
                cases += struct.pack("<I", len(decoded.encode())) + decoded.encode()
    with open(os.path.join(OUT, "cases.bin"), "wb") as f:
        f.write(cases)
    print(f"{len(files)} tokenizers, {len(texts)} texts, {len(cases)} bytes")


if __name__ == "__main__":
    main()
