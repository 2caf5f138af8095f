"""Makes variants/: one tiny BERT cross-encoder, every file that sentence-transformers and transformers read beside it in
many variants, and the scores that sentence-transformers' CrossEncoder (torch) gives on each folder.

    .cache/golden/bin/python test/golden/models/variants.py
"""

import json
import shutil
import tempfile
from pathlib import Path

from architectures import CrossEncoder, HERE, SMALL, AutoConfig, AutoModelForSequenceClassification, all_models, export, save, sentence_transformers, tokenizers_by_style, torch, transformers

OUT = HERE / "variants"
QUERY = "How do I Retry a failed Job?"
DOCUMENTS = [
    "The worker renews its lock every fifteen seconds; a Job that loses its lock is stalled and runs again.", "CAFÉ naïve Ångström résumé", "检索 结果重新排序 系统把每个段落",
    "[SEP] inside [CLS] doc [MASK]  [MASK] x", "", "word " * 60, "RankMill rankmill xRankMill",
]
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
SAVED, TRANSFORMER, MODULES, TOKENIZER, CONFIG = "config_sentence_transformers.json", "sentence_bert_config.json", "modules.json", "tokenizer_config.json", "config.json"
GONE = None  # a file, or a field, that is not there


def mask(**flags):
    return {"content": "[MASK]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags


# Name -> what is changed, file by file; a file of None is removed, as is a field of "GONE".
VARIANTS = {
    "as it was saved": {},
    "activation Sigmoid": {SAVED: {"activation_fn": SIGMOID}},
    "activation null": {SAVED: {"activation_fn": None}},
    "activation null, named in config.json": {SAVED: {"activation_fn": None}, CONFIG: {"sentence_transformers": {"activation_fn": IDENTITY}}},
    "activation of somebody else's": {SAVED: {"activation_fn": "somebody.elses.Function"}},
    "activation in both": {CONFIG: {"sentence_transformers": {"activation_fn": SIGMOID}}},
    "no modules.json": {MODULES: GONE},
    "no modules.json, activation in config.json": {MODULES: GONE, CONFIG: {"sentence_transformers": {"activation_fn": IDENTITY}}},
    "no modules.json, activation as before 4.0": {MODULES: GONE, CONFIG: {"sbert_ce_default_activation_function": IDENTITY}},
    "no modules.json, null over the one of before 4.0": {MODULES: GONE, CONFIG: {"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": IDENTITY}},
    "saved as another kind": {SAVED: {"model_type": "SentenceTransformer"}},
    "a default prompt": {SAVED: {"prompts": {"rank": "retry: "}, "default_prompt_name": "rank"}},
    "a default prompt without modules.json": {MODULES: GONE, SAVED: {"prompts": {"rank": "retry: "}, "default_prompt_name": "rank"}},
    "prompts and no default": {SAVED: {"prompts": {"query": "retry: "}}},
    "max_seq_length": {TRANSFORMER: {"max_seq_length": 24}},
    "max_seq_length over model_max_length": {TRANSFORMER: {"max_seq_length": 80}, TOKENIZER: {"model_max_length": 32}},
    "do_lower_case of sentence-transformers": {TRANSFORMER: {"do_lower_case": True}, TOKENIZER: {"do_lower_case": False}},
    "processor_kwargs": {TRANSFORMER: {"processor_kwargs": {"do_lower_case": False, "model_max_length": 40}}},
    "tokenizer_args, as before 5.4": {TRANSFORMER: {"tokenizer_args": {"do_lower_case": False}}},
    "processing_kwargs": {TRANSFORMER: {"processing_kwargs": {"text": {"max_length": 20}}}},
    "no tokenizer_config.json": {TOKENIZER: GONE},
    "no pad_token": {TOKENIZER: {"pad_token": "GONE"}},
    "do_lower_case false": {TOKENIZER: {"do_lower_case": False}},
    "do_lower_case false, strip_accents true": {TOKENIZER: {"do_lower_case": False, "strip_accents": True}},
    "strip_accents false": {TOKENIZER: {"strip_accents": False}},
    "tokenize_chinese_chars false": {TOKENIZER: {"tokenize_chinese_chars": False}},
    "model_max_length": {TOKENIZER: {"model_max_length": 32}},
    "model_max_length NaN": {TOKENIZER: {"model_max_length": float("inf")}},
    "NaN and null in config.json": {CONFIG: {"classifier_dropout": None, "layer_norm_eps_of_nobody": float("nan"), "finetuning_task": None}},
    "the class of transformers 4": {TOKENIZER: {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}},
    "a class that follows from config.json": {TOKENIZER: {"tokenizer_class": "GONE", "do_lower_case": False}},
    "a class without token types": {TOKENIZER: {"tokenizer_class": "DistilBertTokenizer"}},
    "the plain class": {TOKENIZER: {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"], "do_lower_case": False}},
    "model_input_names without types": {TOKENIZER: {"model_input_names": ["input_ids", "attention_mask"]}},
    "added_tokens_decoder": {TOKENIZER: {"added_tokens_decoder": {"4": mask(lstrip=True, rstrip=True), "0": mask(content="[PAD]"), "2": mask(content="[CLS]"), "3": mask(content="[SEP]")}}},
    "special_tokens_map.json": {"special_tokens_map.json": {"mask_token": mask(lstrip=True, rstrip=True), "unk_token": "[UNK]"}},
    "split_special_tokens": {TOKENIZER: {"split_special_tokens": True}},
    "truncation and padding in tokenizer.json": {"tokenizer.json": {
        "truncation": {"direction": "Right", "max_length": 12, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    }},
}


def changed(folder, changes):
    for name, fields in changes.items():
        path = folder / name
        if fields is None:
            path.unlink()
            continue
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        content |= fields
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "GONE"}, ensure_ascii=False), encoding="utf-8")


def main():
    name, definition, settings, pad, size = next(iter(tokenizers_by_style(all_models())))
    settings = settings | {"tokenizer_class": "BertTokenizer", "model_max_length": 96, "do_lower_case": True}
    torch.manual_seed(5)
    config = AutoConfig.for_model("bert", **SMALL | {"vocab_size": size, "pad_token_id": pad, "num_labels": 1, "initializer_range": 0.2, "attn_implementation": "eager"})
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    shutil.rmtree(OUT, ignore_errors=True)
    cases = []
    with tempfile.TemporaryDirectory() as place:
        base = Path(place, "base")
        save(base, "sentence-transformers", model, definition, settings, None)
        # The file as it was, with its own pipeline: what the class lays over it is what is tried here.
        (base / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
        export(model, ["input_ids", "attention_mask", "token_type_ids"], base / "onnx" / "model.onnx")
        shutil.copytree(base, OUT, ignore=lambda _, names: [name for name in names if name.endswith((".safetensors", ".md"))])
        for variant, changes in VARIANTS.items():
            folder = Path(place, "variant")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(base, folder)
            changed(folder, changes)
            encoder = CrossEncoder(str(folder), device="cpu")
            scores = [float(score) for score in encoder.predict([(QUERY, document) for document in DOCUMENTS])]
            cases.append({"name": variant, "changes": changes, "scores": scores})
            print(f"{variant}: {[round(score, 3) for score in scores]}", flush=True)
    reference = f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    (HERE / "variants.json").write_text(json.dumps({"reference": reference, "query": QUERY, "documents": DOCUMENTS, "cases": cases}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
