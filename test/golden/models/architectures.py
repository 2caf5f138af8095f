"""Makes tiny random cross-encoders of the real architectures, as each library saves them, and what Python makes of them.

    .cache/golden/bin/pip install -r test/golden/models/requirements.txt
    .cache/golden/bin/python test/golden/models/architectures.py .cache/models-matrix --transformers4 .cache/transformers4/bin/python
    npm run docs:models                                            # compares, and writes the table of docs/models.md

Scores of fp32 are those of sentence-transformers' CrossEncoder (torch) on the same folder; of other number formats, those of
onnxruntime on the same file, each pair alone and unpadded.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import sentence_transformers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from sentence_transformers import CrossEncoder  # noqa: E402
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tokenize"), str(HERE.parents[2] / "training")]
from matrix import SENTENCES, added, all_models, bert_normalizer, charsmap, posts, replace, sequence, vocabulary  # noqa: E402
from quantize import quantize  # noqa: E402

logging.disable(logging.WARNING)
IDENTITY = "torch.nn.modules.linear.Identity"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 130}
QUERY = "How do I Retry a failed job?"
DOCUMENTS = [
    "The worker renews its lock every fifteen seconds; a job that loses its lock is stalled and runs again.", "two  spaces   and\ttab", "line one\nline two\r\nthird",
    "  leading and trailing  ", "NBSP\u00a0here em\u3000ideographic space", "ﬁne Ａｂｃ ① café cafe\u0301 Å", "emoji 👩‍👩‍👧 \u200b zero width",
    "[SEP] inside [CLS] doc <s> </s> <mask>[MASK]", "def f(x):\n        return   x\n", "", "CamelCase UPPER don't can't it's 123,456.78 $5", "日本語のテキスト と 한국어 हिन्दी",
    "a" * 300, "word " * 200, *SENTENCES[3:9], "``quoted'' (text)",
]


def tokenizers_by_style(by_name):
    """tokenizer.json as converters write it for these models, and its settings."""
    charsmap_ = {"type": "Precompiled", "precompiled_charsmap": charsmap("nmt_nfkc")}
    level = lambda prefix: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}  # noqa: E731
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    bert = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
    fairseq = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    styles = {
        "WordPiece": ("wordpiece", bert_normalizer(), {"type": "BertPreTokenizer"}, 3, bert),
        "WordPiece, cased": ("wordpiece", bert_normalizer(), {"type": "BertPreTokenizer"}, 3, bert | {"do_lower_case": False}),
        "byte-level BPE": ("byte-fairseq", None, level(False), 2, fairseq),
        "byte-level BPE, add_prefix_space": ("byte-fairseq", None, level(False), 2, fairseq | {"add_prefix_space": True}),
        "byte-level BPE, BERT's tokens": ("byte-bpe", {"type": "NFC"}, level(False), 4, bert | {"model_input_names": ["input_ids", "attention_mask"]}),
        "Unigram": ("unigram-fairseq", sequence(charsmap_, replace(" {2,}", " ", True)), sequence({"type": "WhitespaceSplit"}, meta, key="pretokenizers"), 4, fairseq),
        "Unigram, BERT's tokens": ("unigram", sequence(strip, charsmap_, replace(" {2,}", " ", True)), sequence(meta, key="pretokenizers"), 3, bert | {"bos_token": "[CLS]", "eos_token": "[SEP]"}),
    }
    for name, (model, normalizer, cut, post, settings) in styles.items():
        ids = vocabulary(by_name[model])
        kind = "fairseq" if "fairseq" in model else "bert"
        special = list(dict.fromkeys(value for key, value in settings.items() if key.endswith("_token")))
        tokens = sorted((added(token, ids[token]) for token in special), key=lambda token: token["id"])
        definition = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": cut,
            "post_processor": posts(kind, ids)[post], "decoder": None, "model": by_name[model],
        }
        yield name, definition, settings, ids[settings["pad_token"]], len(ids)


ARCHITECTURES = [
    # model type, tokeniser's style, its class, what the configuration has beside SMALL
    ("bert", "WordPiece", "BertTokenizer", {}),
    ("bert", "WordPiece, cased", "BertTokenizer", {}),
    ("electra", "WordPiece", "ElectraTokenizer", {"embedding_size": 32}),
    ("distilbert", "WordPiece", "DistilBertTokenizer", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    ("mpnet", "WordPiece", "MPNetTokenizer", {}),
    ("nomic_bert", "WordPiece", "BertTokenizer", {}),
    ("roberta", "byte-level BPE", "RobertaTokenizer", {}),
    ("roberta", "byte-level BPE, add_prefix_space", "RobertaTokenizer", {}),
    ("xlm-roberta", "Unigram", "XLMRobertaTokenizer", {}),
    ("camembert", "Unigram", "CamembertTokenizer", {}),
    ("deberta-v2", "Unigram, BERT's tokens", "DebertaV2Tokenizer", {}),
    ("deberta-v2", "Unigram, BERT's tokens", "DebertaV2Tokenizer", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0}),
    ("modernbert", "byte-level BPE, BERT's tokens", "PreTrainedTokenizerFast", {"global_attn_every_n_layers": 2, "local_attention": 16, "reference_compile": False}),
    ("albert", "Unigram, BERT's tokens", "AlbertTokenizer", {"embedding_size": 16}),
]
DTYPES = ("fp32", "fp16", "int8", "int4")


class Head(torch.nn.Module):
    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs))).logits


def export(model, names, path):
    length = 7
    example = [torch.randint(5, 50, (2, length)) if name == "input_ids" else torch.ones(2, length, dtype=torch.long) for name in names]
    if "token_type_ids" in names:
        example[names.index("token_type_ids")] = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)], 1)
    axes = {name: {0: "batch", 1: "sequence"} for name in names} | {"logits": {0: "batch"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(Head(model, names), tuple(example), path, input_names=names, output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False)


def input_names(model, model_type):
    typed = model_type not in ("distilbert", "mpnet", "roberta", "xlm-roberta", "camembert", "modernbert") and getattr(model.config, "type_vocab_size", 2) > 0
    return ["input_ids", "attention_mask"] + (["token_type_ids"] if typed else [])


def save(folder, saver, model, definition, settings, python4):
    """The folder as one library writes it."""
    with tempfile.TemporaryDirectory() as plain:
        Path(plain, "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
        Path(plain, "tokenizer_config.json").write_text(json.dumps(settings))
        Path(plain, "config.json").write_text(json.dumps(model.config.to_dict()))
        model.save_pretrained(folder)
        if saver == "transformers 4":
            script = f"from transformers import AutoTokenizer as A; A.from_pretrained({plain!r}).save_pretrained({str(folder)!r})"
            subprocess.run([python4, "-c", script], check=True, capture_output=True)
        else:
            AutoTokenizer.from_pretrained(plain).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if saver == "transformers 4":
        # sentence-transformers 4 to 5.3 name the activation here.
        config["sentence_transformers"] = {"activation_fn": IDENTITY, "version": "5.1.0"}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if saver.startswith("sentence-transformers"):
        encoder = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
        shutil.rmtree(folder)
        encoder.save_pretrained(str(folder))
        # A model card with its template; nobody reads it here.
        (folder / "README.md").unlink(missing_ok=True)


def alone(path, tokenizer, limit, activation):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = []
    for document in DOCUMENTS:
        encoded = tokenizer([(QUERY, document)], truncation="longest_first", max_length=limit)
        ids = np.array(encoded["input_ids"], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.array(encoded.get("token_type_ids", np.zeros_like(ids)), np.int64)}
        logit = float(session.run(["logits"], {entry.name: feeds[entry.name] for entry in session.get_inputs()})[0][0, 0])
        scores.append(1 / (1 + np.exp(-logit)) if activation == "sigmoid" else logit)
    return scores


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--transformers4", help="an interpreter with transformers 4, for what it saves")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    styles = {name: rest for name, *rest in tokenizers_by_style(all_models())}
    savers = [f"sentence-transformers {sentence_transformers.__version__}", f"transformers {transformers.__version__}"]
    if given.transformers4:
        savers.append("transformers 4")
    version4 = given.transformers4 and subprocess.run([given.transformers4, "-c", "import transformers; print(transformers.__version__)"], capture_output=True, text=True).stdout.strip()
    cells = []
    for number, (model_type, style, class_name, more) in enumerate(ARCHITECTURES):
        definition, settings, pad, size = styles[style]
        settings = settings | {"tokenizer_class": class_name, "model_max_length": 96}
        if model_type == "mpnet":
            settings |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
        torch.manual_seed(number)
        config = AutoConfig.for_model(model_type, **SMALL | {"vocab_size": size + 5, "pad_token_id": pad, "num_labels": 1, "initializer_range": 0.2, "attn_implementation": "eager"} | more)
        for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if isinstance(getattr(config, token, None), int) and getattr(config, token) >= size:
                setattr(config, token, 2)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        for saver in savers:
            folder = given.out / f"{number:02}-{model_type}-{saver.replace(' ', '-')}"
            shutil.rmtree(folder, ignore_errors=True)
            note = ""
            try:
                save(folder, saver, model, definition, settings, given.transformers4)
                encoder = CrossEncoder(str(folder), device="cpu")
                scores = {"fp32": [float(score) for score in encoder.predict([(QUERY, document) for document in DOCUMENTS])]}
                export(model, input_names(model, model_type), folder / "onnx" / "model.onnx")
                activation = "identity" if isinstance(encoder.activation_fn, torch.nn.Identity) else "sigmoid"
                exported = alone(folder / "onnx" / "model.onnx", encoder.tokenizer, encoder.max_seq_length, activation)
                gap = max(abs(a - b) for a, b in zip(exported, scores["fp32"]))
                assert gap < 1e-4, f"the export differs from torch by {gap}"
                for dtype in ("fp16", "int8", "int4"):
                    try:
                        graph = onnx.load(folder / "onnx" / "model.onnx")
                        quantize(graph, dtype, table_values=1 << 11)
                        path = folder / "onnx" / f"model_{dtype}.onnx"
                        onnx.save(graph, path)
                        scores[dtype] = alone(path, encoder.tokenizer, encoder.max_seq_length, activation)
                    except Exception as error:
                        (folder / "onnx" / f"model_{dtype}.onnx").unlink(missing_ok=True)
                        print(folder.name, dtype, str(error)[:120], flush=True)
            except Exception as error:
                note, scores = str(error).splitlines()[0][:160] if str(error) else type(error).__name__, {}
            label = f"transformers {version4}" if saver == "transformers 4" else saver
            relative = " (relative positions)" if more.get("relative_attention") else ""
            cells.append({"folder": folder.name, "architecture": model_type + relative, "tokenizer": f"{class_name}: {style}", "saved": label, "scores": scores, "note": note})
            print(folder.name, {dtype: f"{min(values):.3f}..{max(values):.3f}" for dtype, values in scores.items()}, note, flush=True)
    reference = f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    (given.out / "expected.json").write_text(json.dumps({"reference": reference, "query": QUERY, "documents": DOCUMENTS, "cells": cells}, ensure_ascii=False))


if __name__ == "__main__":
    main()
