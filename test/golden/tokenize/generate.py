"""Writes pairs.json.gz: token ids of texts and pairs by the reference, Python `transformers` fast tokenisers.

    python -m venv .cache/golden && .cache/golden/bin/pip install -r test/golden/tokenize/requirements.txt
    .cache/golden/bin/python test/golden/tokenize/generate.py

Long texts are stored as a rule (`repeat`), long lists of ids as their count and a hash.
"""

import gzip
import hashlib
import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from train import SENTENCES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LENGTHS = [8, 16, 64, 128, 512]
TRUNCATIONS = ["longest_first", "only_second"]
FULL = 40
COMBINATIONS = 6000

# Folder of each tokeniser, and what is changed in its tokenizer.json.
TOKENISERS = {
    "bert": ("models/rankmill-small", {}),
    "wordpiece-cased": ("test/golden/tokenize/wordpiece-cased", {}),
    "wordpiece-lower": (
        "test/golden/tokenize/wordpiece-cased",
        {"normalizer": {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False,
                        "strip_accents": None, "lowercase": True}},
    ),
    "unigram": ("test/golden/tokenize/unigram", {}),
    "unigram-split": (
        "test/golden/tokenize/unigram",
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
         "normalizer": {"type": "NFKC"}},
    ),
    "bpe": ("test/golden/tokenize/bpe", {}),
    "roberta": (
        "test/golden/tokenize/bpe",
        {"normalizer": None,
         "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
         "post_processor": {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
                            "trim_offsets": True, "add_prefix_space": True}},
    ),
}

QUERIES = [
    "how do I retry a failed job",
    "",
    "lock",
    "What's the default for maxStalledCount, and why would I raise it?",
    "[SEP] is not a [MASK] in </s> <mask>",
    {"repeat": "how many tokens may a query have before it is cut ", "times": 60},
    "一个失败的任务会怎样",
    "كيف أعيد محاولة المهمة الفاشلة؟",
]
SHORT = [
    "", " ", "a", "word", "\n", "\t \r\n", "0", "42", "3.14159e-10", "!", "...", "?!?!?!", "----------", "'", "'s", "it's they'll I'd we've 'tis ''s",
    "naïve café résumé Ångström İstanbul ıssız Straße ΣΑΣ ὀδυσσεύς ﬁne ﬀ",
    "e\u0301 a\u0300\u0327 n\u0303 Z\u0351\u036b\u0343a\u0334l\u0335g\u0336o \u0301alone \u20dd",
    "名前 東京タワー 한국어 각 각 ｶﾞﾊﾟ ﾞ 〆 々 〇 ㎏ ① Ⅷ ½ 𠀀𪛖 豈 ～ 。、",
    "مَرْحَبًا بِالْعَالَم ﷺ ﻻ ١٢٣ ـــ", "שָׁלוֹם עוֹלָם יִידיש", "नमस्ते दुनिया क्षत्रिय ज़ १२३ ।", "สวัสดีชาวโลก น้ำ กำ ำ\u0308 ๑๒๓", "ກຳ ខ្មែរ မြန်မာ བོད་",
    "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 ❤️ ☺︎ 1️⃣ ©️ ™\u0301 ½\ufe0f\U0001f3fd",
    "a\x00b\x01c\x07d\x08e\x0bf\x0cg\x1bh\x7fi\x80j\x85k\x9fl", "\x00", "\x00\u0e33\u0308",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom\u00adsoft", "\ufeffBOM first", "\ufffd re\ufffdplacement \ufffe \uffff",
    "non\u00a0breaking\u202fnarrow\u2003em\u3000ideographic\u1680ogham\u2028line\u2029par", "  two  spaces   three    four\t\ttabs\n\n\nlines  ",
    "[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "[sep]", "[ SEP ]", "x[SEP]y [SEP] z[SEP]", "[[SEP]]", "[SEP][SEP] [MASK]  [MASK]", "<s>", "</s>", "<mask>", "<pad>", "<unk>",
    "a <mask> b  <mask>c <mask>", "＜mask＞ <MASK> < mask >", "<s>nested</s></s>", "|||IP_ADDRESS||| ||IP_ADDRESS||", "<|endoftext|>", "##ing ## #", "▁under ▁▁ _", "Ġspace Ċ",
    "RankMill rankmill RankMills xRankMill (RankMill) RankMill", "unaffable antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "https://example.org/a/b.html?q=1&r=%20two#frag user@example.com 192.168.0.1 C:\\temp\\x.txt",
    "const f = async (x) => { return await g(x ?? 0, `t${x}`) } // ok\n\tif (a !== b && c) i++;",
    "def f(self, *args, **kwargs) -> dict[str, int]:\n    return {k: v for k, v in args}\n",
    "\u037e \u1fef \u212b \u2126 \u0344 \uac00\u11a8 \u1100\u1161\u11a8", "\u08d3\u0327 \u1dfa\u0334 \u0d4e \u0d4e1 \u06001", "\U0001e900\U00010400\U00010d50 \ua7cb \u1c89", "\ue000 \U000f0000 \u0378",
]
LONG = [
    {"repeat": "a", "times": 99}, {"repeat": "a", "times": 100}, {"repeat": "a", "times": 101}, {"repeat": "é", "times": 101},
    {"repeat": "x", "times": 1000}, {"repeat": "=", "times": 600}, {"repeat": " ", "times": 600}, {"repeat": "ab", "times": 600},
    {"repeat": "Retries are counted per job. ", "times": 400}, {"repeat": "word ", "times": 10000}, {"repeat": "!?", "times": 300},
    {"repeat": "检索结果重新排序", "times": 300}, {"repeat": "检索，结果。", "times": 300}, {"repeat": "नमस्ते ", "times": 400}, {"repeat": "สวัสดี", "times": 400},
    {"repeat": "[SEP]", "times": 300}, {"repeat": "<mask> ", "times": 300}, {"repeat": "👩‍👩‍👧", "times": 160}, {"repeat": "مرحبا بالعالم ", "times": 300},
    {"repeat": "The worker's lock is renewed; RankMill isn't stalled [MASK] yet. ", "times": 140}, {"repeat": "e\u0301", "times": 600}, {"repeat": "\n", "times": 400},
]


def text_of(spec):
    return spec if isinstance(spec, str) else spec["repeat"] * spec["times"]


def packed(ids):
    if len(ids) <= FULL:
        return ids
    return [len(ids), hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]]


def main():
    texts = [*QUERIES, *SHORT, *SENTENCES, *LONG]
    queries = range(len(QUERIES))
    # Each text beside a query of every kind, and now and then as the query itself.
    pairs = [(i % len(queries), i) for i in range(len(texts))]
    pairs += [(i * 5 % len(texts), (i * 3 + 1) % len(texts)) for i in range(0, len(texts), 4)]
    pairs += [(5, len(texts) - 3), (5, 5), (len(texts) - 3, 5), (len(texts) - 4, len(texts) - 3)]
    cases = {}
    for name, (folder, changes) in TOKENISERS.items():
        definition = json.loads((ROOT / folder / "tokenizer.json").read_text(encoding="utf-8")) | changes
        backend = Tokenizer.from_str(json.dumps(definition))
        backend.no_truncation()
        backend.no_padding()
        reference = PreTrainedTokenizerFast(tokenizer_object=backend)
        plain = [reference(text_of(text), add_special_tokens=False)["input_ids"] for text in texts]
        results, count = [], 0
        for first, second in pairs:
            row = []
            whole = len(plain[first]) + len(plain[second]) + reference.num_special_tokens_to_add(pair=True)
            for truncation in TRUNCATIONS:
                for length in LENGTHS:
                    # The Rust library keeps every combination of what both texts overflow into: far too many to hold
                    # for two long texts and a small length.
                    room = max(1, (length - 4) // 2)
                    if (1 + len(plain[first]) // room) * (1 + len(plain[second]) // room) > COMBINATIONS:
                        row.append("skipped")
                        continue
                    try:
                        # As a batch of one, the way a CrossEncoder calls it: alone, an empty second text would be
                        # taken for none.
                        encoded = reference(
                            [(text_of(texts[first]), text_of(texts[second]))],
                            truncation=truncation, max_length=length, return_token_type_ids=True,
                        )
                    except Exception as error:  # the Rust error comes as a bare Exception
                        assert "too short" in str(error), error
                        row.append(None)
                        continue
                    ids, types = encoded["input_ids"][0], encoded["token_type_ids"][0]
                    second_start = types.index(1) if 1 in types else len(types)
                    assert types == [0] * second_start + [1] * (len(types) - second_start)
                    row.append([packed(ids), second_start, len(ids) < whole])
            results.append(row)
            count += sum(result != "skipped" for result in row)
        print(name, len(results), "pairs,", count, "encodings", flush=True)
        cases[name] = {"folder": folder, "changes": changes, "texts": [packed(ids) for ids in plain], "pairs": results}
    data = {
        "reference": f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}",
        "truncations": TRUNCATIONS, "lengths": LENGTHS, "full": FULL, "texts": texts, "pairs": pairs, "tokenisers": cases,
    }
    content = json.dumps(data, separators=(",", ":")).encode()
    (HERE / "pairs.json.gz").write_bytes(gzip.compress(content, mtime=0))
    print(len(texts), len(pairs), len(pairs) * len(cases), (HERE / "pairs.json.gz").stat().st_size)


if __name__ == "__main__":
    main()
