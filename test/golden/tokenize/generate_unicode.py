"""Writes worker/tokenize/unicode-tables.ts: how the reference tokenisers class every code point.

The Rust crates behind `tokenizers` each carry their own (older) Unicode tables, and Node's depend on the ICU it was
built with. So the classes are probed from the reference and stored; nothing at run time asks Node for a category.

    python test/golden/tokenize/generate_unicode.py
"""

import base64
import struct
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Split, Whitespace

OUT = Path(__file__).resolve().parents[3] / "worker" / "tokenize" / "unicode-tables.ts"
# What may be a control in the sense of grapheme clusters.
CLOSER_CATEGORIES = {"Cc", "Cf", "Zl", "Zp"}
# Letters that Grapheme_Cluster_Break calls Prepend; the others are among the format characters.
PREFIX_LETTERS = {0xD4E, 0x111C2, 0x111C3, 0x113D1, 0x1193F, 0x11941, 0x11A3A, *range(0x11A84, 0x11A8A), 0x11D46, 0x11F02}
CODE_POINTS = [cp for cp in range(0x110000) if not 0xD800 <= cp < 0xE000]


def bert(**on):
    off = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return BertNormalizer(**{**off, **on})


def extending(char):
    """Whether char joins the grapheme cluster before it.

    Precompiled replaces a whole cluster under 6 bytes by what its shortest known prefix maps to: here that is x for A.
    """
    return PRECOMPILED.normalize_str("A" + char) == "x"


def closing(char):
    """Whether nothing joins char, as with control characters. NUL, which is one, cannot be a key."""
    return char == "\0" or normalizers.Precompiled(base64.b64decode(charsmap([char]))).normalize_str(char + "\u0301") != "x"


def preceding(char):
    """Whether char joins the grapheme cluster behind it. NUL cannot be a key."""
    return char != "\0" and normalizers.Precompiled(base64.b64decode(charsmap([char]))).normalize_str(char + "A") == "x"


def unordered(char):
    """Whether the reference does not know a combining character, and so leaves it where it stands."""
    if unicodedata.combining(char) == 0:
        return False
    text = f"a\u0345{char}" if unicodedata.combining(char) == 1 else f"a{char}\u0334"
    return normalizers.NFD().normalize_str(text) == text


def charsmap(keys):
    """A double-array trie in sentencepiece's layout that maps each of keys to 'x'; room is no concern here."""
    units = {0: 0}
    nodes = {b"": 0}
    children = {}
    for key in keys:
        data = key.encode()
        for i in range(len(data)):
            children.setdefault(data[:i], set()).add(data[i])
    leaves = {key.encode() for key in keys}
    base = 256
    for prefix in sorted(set(children) | leaves, key=len):
        position = nodes[prefix]
        offset = (base ^ position) & ~0xFF  # the xor of position and offset must be the base, up to the low byte
        target = position ^ offset
        base += 256
        units[position] |= (offset >> 8 << 10) | (1 << 9)
        if prefix in leaves:
            units[position] |= 1 << 8
            units[target] = 1 << 31
        for label in children.get(prefix, ()):
            units[target ^ label] = label
            nodes[prefix + bytes([label])] = target ^ label
    size = max(max(units) + 1, base + 256)
    array = b"".join(struct.pack("<I", units.get(i, 0)) for i in range(size))
    return base64.b64encode(struct.pack("<I", len(array)) + array + b"x\0").decode()


PRECOMPILED = normalizers.Precompiled(base64.b64decode(charsmap(["A"])))


def encode(code_points):
    """Ranges as alternating gap and length in base 36."""
    numbers, end = [], 0
    ranges = []
    for cp in sorted(code_points):
        if ranges and ranges[-1][1] == cp:
            ranges[-1][1] = cp + 1
        else:
            ranges.append([cp, cp + 1])
    for start, stop in ranges:
        numbers += [start - end, stop - start]
        end = stop
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"

    def base36(n):
        return digits[n] if n < 36 else base36(n // 36) + digits[n % 36]

    return " ".join(map(base36, numbers))


def constant(name, comment, value):
    lines = [value[i : i + 110] for i in range(0, len(value), 110)]
    body = " +\n".join(f"  '{line}'" for line in lines)
    gap = "\n" if len(lines) > 1 or len(name) + len(body) > 100 else ""
    return f"/** {comment} */\nexport const {name} ={gap or ' '}{body if gap else body.strip()}\n"


def main():
    clean, chinese = bert(clean_text=True), bert(handle_chinese_chars=True)
    strip, lower = bert(strip_accents=True), bert(lowercase=True)
    bert_words, byte_level = BertPreTokenizer(), ByteLevel(add_prefix_space=False)

    def words(splitter, text):
        return len(splitter.pre_tokenize_str(text))

    chars = [(cp, chr(cp)) for cp in CODE_POINTS]
    marks = {cp for cp, c in chars if strip.normalize_str("a" + c) == "a"}
    sets = {
        "CONTROLS": ("removed by clean_text", [cp for cp, c in chars if clean.normalize_str(f"a{c}a") == "aa"]),
        "SPACES": ("white space", [cp for cp, c in chars if words(bert_words, f"a{c}a") == 2]),
        "PUNCTUATION": ("isolated by BertPreTokenizer", [cp for cp, c in chars if words(bert_words, f"a{c}a") == 3]),
        "IDEOGRAPHS": ("isolated by handle_chinese_chars", [cp for cp, c in chars if chinese.normalize_str(c) != c]),
        "MARKS": ("removed by strip_accents", sorted(marks)),
        "LETTERS": ("\\\\p{L} of the ByteLevel expression", [cp for cp, c in chars if words(byte_level, "a" + c) == 1]),
        "NUMBERS": ("\\\\p{N} of the ByteLevel expression", [cp for cp, c in chars if words(byte_level, "1" + c) == 1]),
        "EXTENDERS": ("joined to the grapheme cluster before (Precompiled)", [cp for cp, c in chars if extending(c)]),
        "CLOSERS": (
            "of up to three bytes in UTF-8, not joined by extenders (Precompiled)",
            [cp for cp, c in chars if cp < 0x10000 and unicodedata.category(c) in CLOSER_CATEGORIES and closing(c)],
        ),
    }
    whitespace, expression = Whitespace(), Split(Regex(r"\w"), "removed")
    sets["WORDS"] = ("\\\\w of Whitespace", [cp for cp, c in chars if words(whitespace, f"a{c}a") == 1])
    sets["EXPRESSION_WORDS"] = ("\\\\w of expressions", [cp for cp, c in chars if words(expression, c) == 0])
    sets["PREFIXES"] = (
        "joined to what follows (Precompiled)",
        [cp for cp, c in chars if (cp in PREFIX_LETTERS or unicodedata.category(c) == "Cf") and preceding(c)],
    )
    # Decomposition and lower case never change once a character is assigned, so those of Unicode 14 may come from
    # Node. Newer ones: the reference either ignores them or knows them, and Node may or may not.
    new = [cp for cp, c in chars if unicodedata.category(c) == "Cn"]
    lowered = {cp: lower.normalize_str(chr(cp)) for cp in new if lower.normalize_str(chr(cp)) != chr(cp)}
    assert all(len(s) == 1 for s in lowered.values())
    undecomposed = new + [cp for cp, c in chars if unordered(c)]
    for cp, c in chars:
        if cp in marks or unicodedata.category(c) == "Cn":
            continue
        known = "".join(d for d in unicodedata.normalize("NFD", c) if ord(d) not in marks)
        if strip.normalize_str(c) != known:
            assert strip.normalize_str(c) == c, hex(cp)
            undecomposed.append(cp)
    assert not any(lower.normalize_str(chr(cp)) != chr(cp) for cp in undecomposed if unicodedata.category(chr(cp)) != "Cn")
    sets["NEWER"] = (
        "left whole and in place by the reference's normal forms, and not lower-cased unless in LOWERED",
        undecomposed,
    )

    parts = [
        "/**\n * Classes of code points as the reference tokenisers see them, written by"
        " test/golden/tokenize/generate_unicode.py from\n"
        f" * tokenizers {tokenizers.__version__}. Each set is a list of ranges: gap since the last range and length,"
        " in base 36.\n */\n"
    ]
    for name, (comment, code_points) in sets.items():
        comment = comment.replace("\\\\", "\\")
        parts.append(constant(name, comment[0].upper() + comment[1:] + ".", encode(code_points)))
    pairs = " ".join(f"{cp:x} {ord(s):x}" for cp, s in sorted(lowered.items()))
    parts.append(constant("LOWERED", "Characters newer than Unicode 14 with their lower case, in hexadecimal.", pairs))
    OUT.write_text("\n".join(parts), encoding="utf-8")
    print({name: len(points) for name, (_, points) in sets.items()}, len(lowered), OUT.stat().st_size)


if __name__ == "__main__":
    main()
