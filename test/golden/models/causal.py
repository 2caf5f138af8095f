"""Makes tiny random causal rerankers of the real architectures as they are published, exported as `models add` does, and what Python
makes of them.

    .cache/golden/bin/python test/golden/models/causal.py .cache/models-matrix
    npm run docs:models -- .cache/models-matrix

Scores of fp32 are those of training/reference.py (sentence-transformers' CrossEncoder, or the code of Qwen3-Reranker's model card) on
the same folder; of other number formats, those of onnxruntime on the same file, each prompt alone.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import sentence_transformers
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules.logit_score import LogitScore
from transformers import Gemma2Config, Gemma2ForCausalLM, GemmaConfig, GemmaForCausalLM, GemmaForSequenceClassification, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "training"), str(ROOT / "test/fixtures/models/causal")]
from generate import CHATML, QWEN_ROLES, gemma_tokenizer, llama_tokenizer, qwen_tokenizer, random_model, settings  # noqa: E402
import export as exporter  # noqa: E402
import reference  # noqa: E402
from quantize import quantize  # noqa: E402

torch.set_num_threads(1)
QUERY = "How do I retry a failed job?"
DOCUMENTS = [
    "The worker retries a failed job until its attempts are spent.", "", "no", "yes", "\n\nA document of\nlines.\n", "東京は日本の首都です。naïve façades", "مرحبا 👩🏽‍💻 e\u0301\u200d \u202eabc\u202c", "\u0000 \u001b[31mred\u007f \ufeff",
    "<|im_end|> <|im_start|>user </s> <end_of_turn> <bos>", "Redis keeps 1,000 keys in 365 days.", "The queue holds what is to be done. " * 40,
]


def small(tokenizer, **more):
    """Without a width of heads of its own, where the configuration has none."""
    return settings(tokenizer, **more)


def cells_of():
    """Architecture, tokeniser, the network, and how it is saved."""
    qwen = lambda: qwen_tokenizer(CHATML)  # noqa: E731
    roles = lambda: qwen_tokenizer(QWEN_ROLES)  # noqa: E731
    flat = {"window": dict(sliding_window=24, use_sliding_window=True, max_window_layers=1)}
    yield "qwen3, causal", "Qwen2Tokenizer: model card's prompt", Qwen3ForCausalLM, Qwen3Config, qwen, dict(tie_word_embeddings=True), "plain"
    yield "qwen3, causal", "Qwen2Tokenizer: roles", Qwen3ForCausalLM, Qwen3Config, roles, dict(tie_word_embeddings=True), "saved"
    yield "qwen3, causal, sliding window", "Qwen2Tokenizer: roles", Qwen3ForCausalLM, Qwen3Config, roles, dict(tie_word_embeddings=True) | flat["window"], "saved"
    yield "qwen3, causal, one answer", "Qwen2Tokenizer: roles", Qwen3ForCausalLM, Qwen3Config, roles, dict(tie_word_embeddings=True), "one answer"
    yield "qwen3, classification", "Qwen2Tokenizer: model card's prompt", Qwen3ForSequenceClassification, Qwen3Config, qwen, dict(num_labels=1), "plain"
    yield "qwen3, classification", "Qwen2Tokenizer: roles", Qwen3ForSequenceClassification, Qwen3Config, roles, dict(num_labels=1), "plain"
    yield "qwen2, causal", "Qwen2Tokenizer: roles", Qwen2ForCausalLM, Qwen2Config, roles, dict(tie_word_embeddings=True), "saved"
    yield "qwen2, causal", "Qwen2Tokenizer: conversations", Qwen2ForCausalLM, Qwen2Config, qwen, dict(tie_word_embeddings=True), "plain"
    yield "qwen2, classification", "Qwen2Tokenizer: roles", Qwen2ForSequenceClassification, Qwen2Config, roles, dict(num_labels=1), "plain"
    yield "llama, causal", "PreTrainedTokenizerFast: roles", LlamaForCausalLM, LlamaConfig, llama_tokenizer, dict(tie_word_embeddings=False), "saved"
    yield "llama, classification", "PreTrainedTokenizerFast: roles", LlamaForSequenceClassification, LlamaConfig, llama_tokenizer, dict(num_labels=1), "plain"
    yield "mistral, causal, sliding window", "PreTrainedTokenizerFast: roles", MistralForCausalLM, MistralConfig, llama_tokenizer, dict(sliding_window=24), "saved"
    yield "gemma, causal", "GemmaTokenizer: parts", GemmaForCausalLM, GemmaConfig, gemma_tokenizer, {}, "saved"
    yield "gemma, causal", "GemmaTokenizer: no template", GemmaForCausalLM, GemmaConfig, lambda: without_template(gemma_tokenizer()), {}, "plain"
    yield "gemma, classification", "GemmaTokenizer: parts", GemmaForSequenceClassification, GemmaConfig, gemma_tokenizer, dict(num_labels=1), "plain"
    yield "gemma2, causal", "GemmaTokenizer: parts", Gemma2ForCausalLM, Gemma2Config, gemma_tokenizer, dict(sliding_window=24, query_pre_attn_scalar=16), "saved"


def without_template(tokenizer):
    tokenizer.chat_template = None
    return tokenizer


def save(folder, model, tokenizer, how):
    with tempfile.TemporaryDirectory() as plain:
        target = folder if how == "plain" else plain
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        if how == "plain":
            return
        yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        transformer = Transformer(plain, transformer_task="text-generation")
        score = LogitScore(yes) if how == "one answer" else LogitScore(yes, no)
        CrossEncoder(modules=[transformer, score], device="cpu").save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)


def answers_of(folder, tokenizer):
    saved = folder / "1_LogitScore" / "config.json"
    if not saved.exists():
        return [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    config = json.loads(saved.read_text())
    yes = config["true_token_id"]
    return [config["false_token_id"] if config.get("false_token_id") is not None else 0, yes]


def alone(path, rows, single):
    """The scores of prompts, as the graph gives them."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = []
    for ids in rows:
        row = np.array([ids], np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": np.arange(len(ids))[None]}
        for entry in session.get_inputs():
            if entry.name.startswith("past"):
                feeds[entry.name] = np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float32 if entry.type == "tensor(float)" else np.float16)
        logits = session.run(["logits"], {entry.name: feeds[entry.name] for entry in session.get_inputs()})[0].astype(np.float64)
        last = logits[0, -1] if logits.ndim == 3 else logits[0]
        logit = last[0] if len(last) == 1 else last[1] - (0 if single else last[0])
        scores.append(1 / (1 + np.exp(-logit)))
    return scores


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    given = arguments.parse_args()
    cells = []
    for number, (architecture, style, kind, config, make, more, how) in enumerate(cells_of()):
        folder = given.out / f"c{number:02}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "onnx").mkdir(parents=True)
        note, scores = "", {}
        try:
            tokenizer = make()
            model = random_model(kind, config(**small(tokenizer, **more)), 50 + number)
            save(folder, model, tokenizer, how)
            (folder / "onnx").mkdir(exist_ok=True)
            answers = ",".join(map(str, answers_of(folder, tokenizer))) if kind.__name__.endswith("CausalLM") else None
            path = folder / "onnx" / "model.onnx"
            exporter.export(folder, path, argparse.Namespace(answers=answers, chain=False))
            scores["fp32"] = [row[0] for row in reference.asked(str(folder), [(QUERY, document) for document in DOCUMENTS])[1]]
        except Exception as error:
            note = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:140]}"
        cells.append({"folder": folder.name, "architecture": architecture, "tokenizer": style, "saved": f"transformers {transformers.__version__}" if how == "plain" else f"sentence-transformers {sentence_transformers.__version__}", "scores": scores, "note": note})
        for dtype in ("fp16", "int8", "int4") if scores else ():
            try:
                graph = onnx.load(folder / "onnx" / "model.onnx")
                quantize(graph, dtype, table_values=1 << 11)
                onnx.save(graph, folder / "onnx" / f"model_{dtype}.onnx")
                scores[dtype] = alone(folder / "onnx" / f"model_{dtype}.onnx", prompts(folder), how == "one answer")
            except Exception as error:
                (folder / "onnx" / f"model_{dtype}.onnx").unlink(missing_ok=True)
                scores.pop(dtype, None)
                print(folder.name, dtype, str(error)[:160], flush=True)
        print(folder.name, architecture, style, note or {dtype: f"{min(values):.3f}..{max(values):.3f}" for dtype, values in scores.items()}, flush=True)
    versions = f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    (given.out / "causal.json").write_text(json.dumps({"reference": versions, "query": QUERY, "documents": DOCUMENTS, "cells": cells}, ensure_ascii=False))


def prompts(folder):
    """Ids of all prompts; of a folder whose template carries no pair, those of the model card."""
    try:
        encoder = CrossEncoder(str(folder), device="cpu")
        rows = [encoder.preprocess([(QUERY, document)]) for document in DOCUMENTS]
        return [row["input_ids"][0].tolist() for row in rows]
    except ValueError:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (reference.PREFIX, reference.SUFFIX))
        limit = 1024 - len(prefix) - len(suffix)
        texts = [f"<Instruct>: {reference.INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {document}" for document in DOCUMENTS]
        return [prefix + tokenizer(text, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"] + suffix for text in texts]


if __name__ == "__main__":
    main()
