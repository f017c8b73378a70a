"""Texts that are hard for tokenizers: chosen ones and random ones. Used by the scripts that compare tokenizers."""
import unicodedata

WHITE = [chr(c) for c in (9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)]
# Nearly white: format characters, separators of records, the Mongolian vowel separator, the byte order mark.
NEARLY_WHITE = [chr(c) for c in (0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F, 0)]
MARKS = [chr(c) for c in (0x300, 0x301, 0x302, 0x308, 0x316, 0x323, 0x327, 0x334, 0x345, 0x5B0, 0x64B, 0x93C, 0x94D, 0xE38, 0x1DF9, 0x20D0,
                          0x3099, 0xFE0F, 0xFE20, 0x1D165, 0x1D16E, 0x9FE, 0x1133B, 0x1ABF, 0x1E4EC, 0x16FF0)]
DIGITS = [chr(c) for c in (0x30, 0x31, 0x39, 0xB2, 0xBC, 0x660, 0x966, 0x2160, 0x2460, 0x3007, 0x4E00, 0xFF11, 0x1D7CE, 0x10D40,
                           0x11DE0, 0x1E5F1)]
LETTERS = list("aeinstABESTßſKkµªǅʰƛàéñøœłžİıŉǰ") + [chr(c) for c in (0x3B1, 0x3C3, 0x3C2, 0x391, 0x1F80, 0x416, 0x436, 0x5D0, 0x627,
                                                                      0x905, 0xE01,
           0x1100, 0x1161, 0x11A8, 0xAC00, 0xAC01, 0x3042, 0x30A2, 0x4E2D, 0x9FA5, 0x9FA6, 0xFB01, 0xFF21, 0x1D400, 0x10400, 0x20000,
           0x2EBF0, 0x31350, 0x105C0, 0x16EA0, 0x1C89, 0xA7CB, 0x1E4D0, 0x11F04, 0x13460, 0x1F130)]
OTHER = list(".,;:!?'\"-_/\\()[]{}<>@#$%^&*+=|~`§©¿€“”…—々ー") + [chr(c) for c in (0x1F600, 0x1F468, 0x1F469, 0x1F467, 0x1F3FD, 0x1F1E9,
    0x1F1EA,
           0x2764, 0x1FAE8, 0x1FADF, 0xE000, 0xFFFD, 0xFFFE, 0xFDD0, 0x1FFFE, 0x10FFFF, 0x378, 0xE0041, 0xF8FF, 0x1171E, 0x1CC00)]
PIECES = ["'s", "'S", "'ſ", "'ll", "'LL", "'re", "'t", "'D", "don't", "WE'LL", "it's", "\r\n", "\n\n", "   ", "\t\t", " \n ", "1234567",
          "3.14", "--", "...",
          "hello", "Hello", " world", "the", " the", "    return", "</s>", "<s>", "<|endoftext|>", "<|im_", "start|>", "<mask>",
          "<unk>", "<0x41>", "▁", "Ġ",
          "👨‍👩‍👧‍👦", "🇩🇪", "👍🏽", "é", "e\u0301", "ﬁ", "Å", "각", "각", "नमस्ते", "中文", "日本語", "x" * 30, "ab" * 12, "aa", "aab", "one",
          "[L]", "[R]",
          "[LR]", "[S]", "<a>", "<b>", "<SPECIAL>", "<special>", "ärger", "ÄRGER", "word", "abc", "#"]


def hard_texts():
    all_white = "".join(WHITE)
    return [
        "", " ", "  ", "\n", "\r\n", "\t", "a", " a", "a ", " a ", "\0", "a\0b", "Hello, world!", "Hello  world   !",
        "I'll can't WON'T they'Re 'Tis '",
        "don'ſ it'S", "1234567890 12 123 1234 1,234.5", "x=1;y=22;z=333", all_white, "a" + all_white + "b", "a".join(WHITE),
        "a".join(NEARLY_WHITE),
        " \n \n\n  \n", "line\r\nline\rline\n\n\nline", "tabs\t\tand    spaces ", "\u180e \u180ea",
        "e\u0301 \u0301e \u0301\u0316e\u0316\u0301",
        "".join(MARKS), "a" + "".join(MARKS) + "b", "".join(DIGITS), "a".join(DIGITS), "".join(LETTERS), " ".join(LETTERS),
        "".join(OTHER), "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬀ ﬁ ½ ² Ⅳ ㎏",
        "👨‍👩‍👧‍👦 👩🏽‍💻 🇩🇪🇫🇷 ❤️ ☎︎ 1️⃣", "中文字符，标点。ひらがなカタカナ 한글 한글", "नमस्ते दुनिया ไทยภาษา العربية עברית", "Ǆ ǅ ǆ İ ı ſ ß ẞ ŉ ǰ",
        "ＦＵＬＬ　ｗｉｄｔｈ",
        "<s>", " <s> ", "<s></s>", "a<s>b</s>c", "<|endoftext|>", "x <|endoftext|> y", "<|endoftext", "<mask> <mask>", "a <mask>  b",
        "<|im_start|>user\nhi<|im_end|>\n",
        "aab aa aaab aabaa", "one bone one1 1one one. .one onE", "a [L] b [R] c  [LR]  d[L][R]   [L]", "x[S] [S] [S]x [S]é é[S]",
        "a [B] [B]b  [B]",
        "<a><b><a><a><b", "Ärger ÄRGER A\u0308rger", "<SPECIAL><special>", "[R] [R]  <a>", "[R]  [B]", "word sword words word-word",
        "abacab.Xy 12x 3x 123x ABh; 1f;",
        "<0x41><0xC3>", "▁a ▁ b", "Ġa Ġ", "a" * 200, " " * 200, "ab" * 150, "\n" * 100, "é" * 100, "\u0301" * 60, "1" * 100, "!" * 100,
        "the " * 60, "中" * 80,
        "aéb" * 70, " \u00a0" * 40, "\u0301\u0316" * 40, "a\u0301\u0316" * 40, "e" + "\u0316\u0301" * 45,
    ]


def random_texts(rng, count, added=()):
    pools = [WHITE, NEARLY_WHITE, MARKS, DIGITS, LETTERS, OTHER, PIECES, list("abcdefghijklmnopqrstuvwxyz"), list("  \n\t"),
             list(added) or [" "]]
    out = []
    for _ in range(count):
        kind = rng.random()
        parts = []
        weights = [rng.random() ** 3 for _ in pools]
        for _ in range(rng.randrange(1, 40 if kind < 0.9 else 200)):
            if kind > 0.8 and rng.random() < 0.3:
                c = rng.randrange(0x110000)
                parts.append(chr(c) if not 0xD800 <= c < 0xE000 else "?")
                continue
            parts.append(rng.choice(rng.choices(pools, weights)[0]))
            if rng.random() < 0.1:
                parts.append(parts[-1] * rng.randrange(1, 8))
        s = "".join(parts)
        if rng.random() < 0.1:
            s = unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKC", "NFKD")), s)
        out.append(s)
    return out
