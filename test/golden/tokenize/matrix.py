"""Writes matrix.json.gz: normalisers x pre-tokenisers x models x post-processors x classes of tokenizer.json, and token ids
by the reference, `AutoTokenizer` of Python `transformers`, over random texts.

    .cache/golden/bin/python test/golden/tokenize/matrix.py                          # what the tests read
    .cache/golden/bin/python test/golden/tokenize/matrix.py --texts 500 -o big.json.gz
    RANKMILL_TOKENIZER_MATRIX=big.json.gz npm test -- unit/tokenize/matrix           # the same at any size, with figures
"""

import argparse
import gzip
import io
import json
import logging
import os
import random
import re
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import sentencepiece  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.convert_slow_tokenizer import import_protobuf  # noqa: E402

from generate import SHORT  # noqa: E402
from train import SENTENCES  # noqa: E402

logging.disable(logging.WARNING)
HERE = Path(__file__).resolve().parent
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def added(content, id, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags


def corpus():
    rng = random.Random(3)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    return SENTENCES * 8 + [" ".join(rng.choices(words, k=12)) for _ in range(600)]


def trained(model, trainer, pre=None, normalizer=None):
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(corpus(), trainer)
    return json.loads(tokenizer.to_str())["model"]


def charsmap(rule):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=model, vocab_size=420, model_type="unigram", num_threads=1,
        character_coverage=0.98, normalization_rule_name=rule, minloglevel=2,
    )
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(model.getvalue())
    import base64

    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def all_models():
    quiet = {"show_progress": False}
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    metaspace = pre_tokenizers.Metaspace()
    pieces = trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=700, special_tokens=BERT, limit_alphabet=260, **quiet), pre_tokenizers.BertPreTokenizer())
    byte = trained(models.BPE(), trainers.BpeTrainer(vocab_size=800, initial_alphabet=level.alphabet(), special_tokens=BERT, **quiet), level)
    fairseq = trained(models.BPE(), trainers.BpeTrainer(vocab_size=800, initial_alphabet=level.alphabet(), special_tokens=FAIRSEQ, **quiet), level)
    clip = trained(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"), trainers.BpeTrainer(vocab_size=700, special_tokens=BERT, end_of_word_suffix="</w>", limit_alphabet=200, **quiet), pre_tokenizers.Whitespace())
    hashes = trained(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"), trainers.BpeTrainer(vocab_size=700, special_tokens=BERT, continuing_subword_prefix="##", limit_alphabet=200, **quiet), pre_tokenizers.WhitespaceSplit())
    chars = trained(models.BPE(unk_token="[UNK]"), trainers.BpeTrainer(vocab_size=600, special_tokens=BERT, limit_alphabet=150, **quiet), metaspace)
    llama = trained(models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<mask>", *bytes_], limit_alphabet=150, **quiet), metaspace)
    words = trained(models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer(vocab_size=500, special_tokens=BERT, **quiet), pre_tokenizers.Whitespace())
    uni = trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=600, special_tokens=BERT, unk_token="[UNK]", **quiet), metaspace)
    xlm = trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=600, special_tokens=FAIRSEQ, unk_token="<unk>", **quiet), metaspace)
    uni_bytes = trained(models.Unigram(), trainers.UnigramTrainer(vocab_size=800, special_tokens=[*BERT, *bytes_], unk_token="[UNK]", **quiet), metaspace)
    # DeBERTa's class looks for its unknown token by a score of 0.
    return {
        "wordpiece": pieces,
        "wordpiece-short": pieces | {"max_input_chars_per_word": 8},
        "byte-bpe": byte,
        "byte-bpe-ignore": byte | {"ignore_merges": True},
        "byte-fairseq": fairseq,
        "bpe-suffix": clip,
        "bpe-prefix": hashes,
        "bpe": chars,
        "bpe-fuse": chars | {"fuse_unk": True},
        "bpe-drop": chars | {"unk_token": None},
        "bpe-bytes": llama | {"byte_fallback": True, "fuse_unk": True},
        "wordlevel": words,
        "unigram": uni,
        "unigram-fairseq": xlm,
        "unigram-bytes": uni_bytes | {"byte_fallback": True},
    }


def bert_normalizer(**more):
    return {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True} | more


def replace(pattern, content, regex=False):
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def sequence(*steps, key="normalizers"):
    return {"type": "Sequence", key: list(steps)}


def all_normalizers(nfkc, nmt):
    strip = lambda left, right: {"type": "Strip", "strip_left": left, "strip_right": right}  # noqa: E731
    lower = {"type": "Lowercase"}
    return [
        None, bert_normalizer(), bert_normalizer(lowercase=False), bert_normalizer(clean_text=False, handle_chinese_chars=False),
        bert_normalizer(strip_accents=True, lowercase=False), bert_normalizer(strip_accents=False),
        *({"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD")), lower, sequence({"type": "NFD"}, {"type": "StripAccents"}),
        {"type": "StripAccents"}, {"type": "Nmt"}, strip(True, False), strip(True, True), nfkc, nmt,
        sequence(nfkc, replace(" {2,}", " ", True)), sequence(replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, lower, nfkc),
        sequence(lower, bert_normalizer(lowercase=False)), sequence(replace(r"\s{2,}|[\n\r\t]", " ", True), {"type": "NFC"}, strip(False, True)),
        replace(" ", "▁"), sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")), replace(r"\s+", " ", True), replace("[0-9]+", "#", True),
        replace(r"(?i:the|job)|\d{2,}", "x", True), {"type": "ByteLevel"}, sequence({"type": "Nmt"}, {"type": "NFKC"}, replace(r" {2,}", " ", True)), sequence(), replace("e", ""),
    ]


def all_pre_tokenizers():
    def metaspace(scheme, split):
        return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}

    def split(pattern, behavior, invert=False, regex=True):
        return {"type": "Split", "pattern": {"Regex" if regex else "String": pattern}, "behavior": behavior, "invert": invert}

    def level(prefix, regex):
        return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}

    def both(*steps):
        return sequence(*steps, key="pretokenizers")

    digits = lambda single: {"type": "Digits", "individual_digits": single}  # noqa: E731
    marks = lambda behavior: {"type": "Punctuation", "behavior": behavior}  # noqa: E731
    white = {"type": "WhitespaceSplit"}
    behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    return [
        None, {"type": "BertPreTokenizer"}, {"type": "Whitespace"}, white, metaspace("always", True), metaspace("never", True), metaspace("first", True),
        metaspace("always", False), metaspace("first", False), metaspace("never", False), both(white, metaspace("always", True)), both(white, metaspace("first", True)),
        level(False, True), level(True, True), level(False, False), level(True, False), both(split(GPT4, "Isolated"), level(False, False)),
        both(split(GPT4O, "Removed", True), level(False, False)), both(split(DEEPSEEK, "Isolated"), level(False, False)), both(split(CLIP, "Removed", True), level(False, True)),
        both(digits(True), level(False, True)), both(digits(False), level(True, True)), both(split(r"\p{N}{1,3}", "Isolated"), split(r"[一-龥぀-ゟ゠-ヿ]+", "Isolated"), level(False, True)),
        *(split(" ", behavior, False, False) for behavior in behaviors), *(split(r"\s+|[aeiou]", behavior) for behavior in behaviors),
        *(split(r"\w+|[^\w\s]+", behavior, True) for behavior in ("Removed", "Isolated")), *(marks(behavior) for behavior in behaviors), digits(True), digits(False),
        {"type": "CharDelimiterSplit", "delimiter": "e"}, both(white, marks("Isolated"), digits(True)), both(marks("Isolated"), metaspace("always", True)),
        {"type": "FixedLength", "length": 3}, split(r"(?<=[a-z])(?=[A-Z])|\s", "Removed"), split(r"[a-z\p{Lu}_]++|\d++", "Isolated"),
    ]


def posts(kind, ids):
    cls, sep = (("<s>", "</s>") if kind == "fairseq" else ("[CLS]", "[SEP]"))
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)}

    def template(second):
        piece = lambda token, type_id: {"SpecialToken": {"id": token, "type_id": type_id}}  # noqa: E731
        text = lambda name, type_id: {"Sequence": {"id": name, "type_id": type_id}}  # noqa: E731
        return {
            "type": "TemplateProcessing", "single": [piece(cls, 0), text("A", 0), piece(sep, 0)],
            "pair": [piece(cls, 0), text("A", 0), piece(sep, 0), text("B", second), piece(sep, second)], "special_tokens": special,
        }

    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return [
        None, {"type": "BertProcessing", "sep": [sep, ids[sep]], "cls": [cls, ids[cls]]},
        {"type": "RobertaProcessing", "sep": [sep, ids[sep]], "cls": [cls, ids[cls]], "trim_offsets": True, "add_prefix_space": True},
        template(1), template(0), sequence(level, template(1), key="processors"),
    ]


def vocabulary(model):
    return {entry[0]: i for i, entry in enumerate(model["vocab"])} if isinstance(model["vocab"], list) else dict(model["vocab"])


def pipelines(count, by_name, rng):
    """Every normaliser and every pre-tokeniser with several models; the rest of the choices by chance."""
    nfkc, nmt = ({"type": "Precompiled", "precompiled_charsmap": charsmap(rule)} for rule in ("nfkc", "nmt_nfkc_cf"))
    normalizers, cuts, names = all_normalizers(nfkc, nmt), all_pre_tokenizers(), list(by_name)
    for i in range(count):
        name = names[i % len(names)]
        model = by_name[name]
        ids = vocabulary(model)
        kind = "fairseq" if "fairseq" in name else "bert"
        special = FAIRSEQ if "<mask>" in ids and "[CLS]" not in ids else BERT
        size = len(ids)
        tokens = [added(token, ids[token]) for token in special if token in ids]
        flags = rng.choice([{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True, "normalized": True}])
        normalizer = normalizers[i % len(normalizers)]
        # tokenizers 0.23.3 panics, or asks for memory without end, where it looks for added tokens in stripped text.
        strips = '"Strip"' in json.dumps(normalizer)
        tokens[-1] = tokens[-1] | ({} if strips else flags)
        if rng.random() < 0.5 and not strips:
            more = [("RankMill", {"single_word": True}), ("|||IP|||", {}), ("  ", {}), ("été", {"lstrip": True}), ("the job", {"rstrip": True})]
            chosen = rng.sample(more, rng.randint(1, 3))
            tokens += [added(text, size + j, special=False, normalized=True, **kind_flags) for j, (text, kind_flags) in enumerate(chosen)]
        post = posts(kind, ids)[rng.randrange(6)] if special is not FAIRSEQ or kind == "fairseq" else None
        definition = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": cuts[(i * 5 + i // len(cuts)) % len(cuts)], "post_processor": post, "decoder": None,
        }
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"], "pad_token": special[0], "model_max_length": 48}
        yield f"pipeline-{i}-{name}", name, definition, settings, {"model_type": "bert"}, None


def classes(by_name):
    """Folders whose class builds its own pipeline, or whose settings lie over that of tokenizer.json."""
    nfkc = {"type": "Precompiled", "precompiled_charsmap": charsmap("nmt_nfkc")}
    level = lambda prefix: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}  # noqa: E731
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    of = {
        "wordpiece": (bert_normalizer(), {"type": "BertPreTokenizer"}), "byte-bpe": (None, level(False)), "byte-fairseq": (None, level(False)),
        "unigram": (sequence({"type": "Strip", "strip_left": True, "strip_right": True}, nfkc, replace(" {2,}", " ", True)), sequence(meta, key="pretokenizers")),
        "unigram-fairseq": (sequence(nfkc, replace(" {2,}", " ", True)), sequence({"type": "WhitespaceSplit"}, meta, key="pretokenizers")),
        "bpe-bytes": (replace(" ", "▁"), None),
    }
    flags = {
        "BertTokenizer": ("bert", "wordpiece", [{}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}, {"tokenize_chinese_chars": False}, {"strip_accents": True, "do_lower_case": False}]),
        "BertTokenizerFast": ("electra", "wordpiece", [{}, {"do_lower_case": False}]),
        "ElectraTokenizerFast": ("electra", "wordpiece", [{}, {"do_lower_case": False}]),
        "DistilBertTokenizer": ("distilbert", "wordpiece", [{}, {"do_lower_case": False}]),
        "MPNetTokenizer": ("mpnet", "wordpiece", [{"cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}]),
        "RobertaTokenizer": ("roberta", "byte-fairseq", [{}, {"add_prefix_space": True}, {"mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "__type": "AddedToken"}}]),
        "RobertaTokenizerFast": ("roberta", "byte-fairseq", [{"add_prefix_space": True}]),
        "XLMRobertaTokenizer": ("xlm-roberta", "unigram-fairseq", [{}, {"add_prefix_space": False}]),
        "CamembertTokenizer": ("camembert", "unigram-fairseq", [{}]),
        "DebertaV2Tokenizer": ("deberta-v2", "unigram", [{}, {"do_lower_case": True}, {"split_by_punct": True}, {"add_prefix_space": False}]),
        "DebertaV2TokenizerFast": ("deberta-v2", "unigram", [{}]),
        "DebertaTokenizer": ("deberta", "byte-bpe", [{}, {"add_prefix_space": True}]),
        "AlbertTokenizer": ("albert", "unigram", [{"unk_token": "[UNK]", "pad_token": "[PAD]"}, {"unk_token": "[UNK]", "pad_token": "[PAD]", "do_lower_case": False, "keep_accents": True}]),
        "GPT2Tokenizer": ("gpt2", "byte-bpe", [{"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}]),
        "GPTNeoXTokenizer": ("gpt_neox", "byte-bpe", [{"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}]),
        "Qwen2Tokenizer": ("qwen3", "byte-bpe", [{"unk_token": "[UNK]", "eos_token": "[SEP]", "pad_token": "[PAD]"}, {"unk_token": "[UNK]", "eos_token": "[SEP]", "pad_token": "[PAD]", "add_prefix_space": True}]),
        "LlamaTokenizer": ("llama", "bpe-bytes", [{"pad_token": "<pad>"}, {"pad_token": "<pad>", "legacy": True}, {"pad_token": "<pad>", "add_prefix_space": False}]),
        "GemmaTokenizer": ("gemma", "bpe-bytes", [{}]),
        "PreTrainedTokenizerFast": ("modernbert", "byte-bpe", [{"model_input_names": ["input_ids", "attention_mask"]}]),
        "TokenizersBackend": ("bert", "wordpiece", [{"model_input_names": ["input_ids", "attention_mask"], "do_lower_case": False}]),
        None: ("bert", "wordpiece", [{}, {"do_lower_case": False}]),
        "SomebodysTokenizer": ("nomic_bert", "wordpiece", [{"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}]),
    }
    for name, (model_type, of_model, variants) in flags.items():
        model = by_name[of_model]
        ids = vocabulary(model)
        normalizer, cut = of[of_model]
        special = [token for token in (FAIRSEQ if "fairseq" in of_model else BERT if "[CLS]" in ids else ["<unk>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<mask>"])]
        kind = "fairseq" if "fairseq" in of_model else "bert"
        post = posts(kind, ids)[3] if of_model != "bpe-bytes" else None
        for v, variant in enumerate(variants):
            definition = {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(token, ids[token]) for token in special], "normalizer": normalizer,
                "pre_tokenizer": cut, "post_processor": post, "decoder": None,
            }
            settings = {"model_max_length": 48} | variant | ({"tokenizer_class": name} if name else {})
            yield f"class-{name}-{model_type}-{v}", of_model, definition, settings, {"model_type": model_type}, None
            if v == 0:
                # What transformers 4 wrote beside it, with a token that only tokenizer_config.json names.
                decoder = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in definition["added_tokens"]}
                decoder[str(len(ids))] = {"content": "RankMill", "single_word": True, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
                decoder[str(ids[special[-1]])] |= {"lstrip": True}
                yield f"decoder-{name}-{model_type}", of_model, definition, settings | {"added_tokens_decoder": decoder}, {"model_type": model_type}, None
                names = {"additional_special_tokens": ["été"], "mask_token": {"content": special[-1], "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}}
                yield f"map-{name}-{model_type}", of_model, definition, settings, {"model_type": model_type}, names


BLOCKS = [(0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF),
          (0x2000, 0x206F), (0x20A0, 0x20BF), (0x2100, 0x218F), (0x2460, 0x24FF), (0x3000, 0x30FF), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0xFB00, 0xFB4F), (0xFE00, 0xFE6F), (0xFF00, 0xFFEF), (0x1F300, 0x1F64F), (0x1D400, 0x1D4FF)]
GLUE = [" ", " ", " ", " ", "", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", ". ", ", ", "-", "'", "…"]
MARKS = ["[SEP]", "[MASK]", "[CLS]", "<mask>", "</s>", "<s>", "<unk>", "RankMill", "|||IP|||", "  ", "été", "the job", "▁", "Ġ", "##", "``", "''", "[UNK]", "<0x41>", "'ll", "I'M", "camelCaseWord", "12345", "3.14", "\ufeff", "\u200b", "\x07"]


def texts(count, seed):
    rng = random.Random(seed)
    words = [word for sentence in SENTENCES for word in sentence.split()] + [word for text in SHORT for word in text.split()]
    for i in range(count):
        if i < len(SHORT) and count >= len(SHORT):
            yield SHORT[i]
            continue
        text = rng.choice(["", "", " ", "  "])
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.55:
                word = rng.choice(words)
                text += rng.choice([word, word, word.upper(), word.capitalize()])
            elif kind < 0.75:
                first, last = rng.choice(BLOCKS)
                text += "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4)))
            else:
                text += rng.choice(MARKS)
            text += rng.choice(GLUE)
        yield text


def ids_of(tokenizer, text):
    try:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException:  # of Rust, a panic too: an unknown token that the vocabulary lacks, a split within itself
        return None


def pair_of(tokenizer, first, second):
    lengths = [None if ids is None else len(ids) for ids in (ids_of(tokenizer, first), ids_of(tokenizer, second))]
    # The Rust library keeps every combination of what both texts overflow into.
    if None in lengths or (1 + lengths[0] // 16) * (1 + lengths[1] // 16) > 600:
        return None
    try:
        encoded = tokenizer([(first, second)], truncation="longest_first", max_length=40)
    except BaseException:
        return None
    types = encoded["token_type_ids"][0] if "token_type_ids" in encoded else [0] * len(encoded["input_ids"][0])
    start = types.index(1) if 1 in types else len(types)
    return [encoded["input_ids"][0], start] if types == [0] * start + [1] * (len(types) - start) else None


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--texts", type=int, default=12, help="a file")
    arguments.add_argument("--pipelines", type=int, default=225)
    arguments.add_argument("-o", type=Path, default=HERE / "matrix.json.gz")
    given = arguments.parse_args()
    by_name = all_models()
    rng = random.Random(11)
    files, skipped, cases = [], [], 0
    everything = [*pipelines(given.pipelines, by_name, rng), *classes(by_name)]
    for number, (name, model, definition, settings, config, special) in enumerate(everything):
        print(name, flush=True, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            for file, content in (("tokenizer.json", definition | {"model": by_name[model]}), ("tokenizer_config.json", settings), ("config.json", config), ("special_tokens_map.json", special)):
                if content is not None:
                    Path(folder, file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except Exception as error:
                skipped.append([name, str(error)[:90]])
                continue
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        chosen = list(texts(given.texts, number))
        rows = [[text, ids_of(tokenizer, text)] for text in chosen]
        pairs = [[chosen[0], chosen[-1]], ["how do I retry a failed job " * 2, " ".join(SENTENCES[:3])], ["a", "b"]]
        pairs = [[*pair, pair_of(tokenizer, *pair)] for pair in pairs]
        cases += sum(ids is not None for _, ids in rows) + sum(pair[2] is not None for pair in pairs)
        files.append({"name": name, "model": model, "definition": definition, "settings": settings, "config": config, "special": special, "texts": rows, "pairs": pairs})
    reference = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    data = {"reference": reference, "models": by_name, "files": files}
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # The few charsmaps are kept once.
    charsmaps = sorted(set(re.findall(r'"precompiled_charsmap":"([^"]{100,})"', content)))
    for i, text in enumerate(charsmaps):
        content = content.replace(text, f"charsmap {i}")
    content = json.dumps({"charsmaps": charsmaps})[:-1] + "," + content[1:]
    content = content.encode("utf-8", "surrogatepass")
    given.o.write_bytes(gzip.compress(content, mtime=0))
    print(len(files), "files,", cases, "cases,", given.o.stat().st_size, "bytes; not loaded by the reference:", skipped)


if __name__ == "__main__":
    main()
