"""Makes tiny random rerankers in the style of those that people publish, with the oddities of their files, and what Python makes of them.

    .cache/golden/bin/python test/golden/models/public_styles.py .cache/models-matrix
    npm run docs:models -- .cache/models-matrix     # compares, and writes both tables of docs/models.md

Scores are those of sentence-transformers' CrossEncoder (torch, fp32), each pair alone; where it does not load a folder, its reason
stands instead, and Rankmill has to refuse it as well or score it as the authors' own code (here: the graph) does.
"""

import argparse
import json
import logging
import shutil
import tempfile
from pathlib import Path

from architectures import (
    DOCUMENTS, IDENTITY, SMALL, AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, CrossEncoder, all_models, export, input_names, np, onnx, onnxruntime,
    sentence_transformers, tokenizers_by_style, torch, transformers,
)
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

logging.disable(logging.WARNING)
torch.set_num_threads(1)
SIGMOID = "torch.nn.modules.activation.Sigmoid"
QUERIES = ["How do I Retry a failed job?", "", "مرحبا 👩🏽‍💻 e\u0301\u200d", "retry " * 70]
TEXTS = [
    *DOCUMENTS, "", " ", "\n", "\u0000nul \u0007bell \u001b[31mred\u007f", "שלום עולם مرحبا بالعالم \u202eabc\u202c", "👨‍👩‍👧‍👦🏳️‍🌈👍🏿 e\u0301\u0323 Z͑ͫ̓ͪ̂a̴͒", "漢字かなカナ混じり한글\u3000全角",
    "\ufeffBOM and \u00ad soft\u2011hyphen \u2028line\u2029paragraph", "\ufffd \ue000 \U000f0000", "İstanbul DŽ ǆ ß ſ ﬃ Σς", "x" * 1200, "The worker renews its lock. " * 120, "</s><s>[CLS]<mask> ▁▁ ##ing Ġthe",
]


class Case:
    """A folder in the making: a model, its tokeniser, and changes to the files that are written."""

    def __init__(self, root, styles, number, name, what, model_type, style, class_name, *, config=None, settings=None, files=None, labels=1, label=None, graph=None, weights=None, saver="plain", more=None):
        self.folder = root / f"p{number:02}"
        self.name, self.what, self.label = name, what, label
        definition, own, pad, size = styles[style]
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        own = own | {"tokenizer_class": class_name, "model_max_length": 96} | (settings or {})
        if model_type == "mpnet":
            own |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
        torch.manual_seed(1000 + number)
        made = AutoConfig.for_model(model_type, **SMALL | {"vocab_size": size + 5, "pad_token_id": pad, "num_labels": labels, "initializer_range": 0.2, "attn_implementation": "eager"} | (config or {}))
        for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if isinstance(getattr(made, token, None), int) and getattr(made, token) >= size:
                setattr(made, token, 2)
        self.model = AutoModelForSequenceClassification.from_config(made, attn_implementation="eager").eval()
        if weights == "fp16":
            self.model.half().save_pretrained(self.folder)
            self.model.float()
        else:
            self.model.save_pretrained(self.folder)
        write(self.folder, {"tokenizer.json": definition, "tokenizer_config.json": {key: value for key, value in own.items() if value is not None}})
        if saver == "modules":
            self.modules = more(self)
        elif saver == "sentence-transformers":
            encoder = CrossEncoder(str(self.folder), device="cpu", **(more or {}))
            shutil.rmtree(self.folder)
            encoder.save_pretrained(str(self.folder))
        write(self.folder, files or {})
        self.graph = graph
        self.typed = input_names(self.model, model_type)

    def finish(self):
        path = self.folder / "onnx" / "model.onnx"
        if not path.exists():
            export(self.model, self.typed, path)
        if self.graph:
            self.graph(path)


def write(folder, files):
    """A file of None goes; of an object, fields of "GONE" go; else it takes the place of what is there, or is laid over it (dict)."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            there = json.loads(path.read_text(encoding="utf-8")) if path.exists() and isinstance(content, dict) else {}
            merged = {key: value for key, value in (there | content).items() if value != "GONE"} if isinstance(content, dict) else content
            path.write_text(json.dumps(merged, ensure_ascii=False), encoding="utf-8")


def edited(change):
    def run(path):
        graph = onnx.load(path)
        change(graph)
        onnx.save(graph, path)

    return run


def renamed_output(name):
    def change(model):
        graph = model.graph
        graph.node.append(helper.make_node("Identity", ["logits"], [name]))
        graph.output[0].name = name

    return edited(change)


def reshaped(shape, dims):
    def change(model):
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "rm_shape"))
        for node in graph.node:
            for place, output in enumerate(node.output):
                if output == "logits":
                    node.output[place] = "rm_logits"
        graph.node.append(helper.make_node("Reshape", ["rm_logits", "rm_shape"], ["logits"]))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims))

    return edited(change)


def narrow(model):
    """int32 inputs, as some exporters leave them."""
    for entry in list(model.graph.input):
        entry.type.tensor_type.elem_type = TensorProto.INT32
        wide = f"{entry.name}_wide"
        for node in model.graph.node:
            for place, source in enumerate(node.input):
                if source == entry.name:
                    node.input[place] = wide
        model.graph.node.insert(0, helper.make_node("Cast", [entry.name], [wide], to=TensorProto.INT64))


def renamed_input(old, new):
    def change(model):
        for entry in model.graph.input:
            if entry.name == old:
                entry.name = new
        for node in model.graph.node:
            for place, source in enumerate(node.input):
                if source == old:
                    node.input[place] = new

    return edited(change)


def external(path):
    graph = onnx.load(path)
    onnx.save_model(graph, path, save_as_external_data=True, all_tensors_to_one_file=True, location="model.onnx_data", size_threshold=64)


def hidden_beside(model):
    """A second output of hidden states, before the logits."""
    graph = model.graph
    inner = next(node.output[0] for node in graph.node if node.op_type == "LayerNormalization")
    graph.output.insert(0, helper.make_tensor_value_info(inner, TensorProto.FLOAT, ["batch", "sequence", 32]))


def ettin(normal, pooling="cls", labels=1, residual=False):
    """Transformer, Pooling, Dense, LayerNorm and Dense, as sentence-transformers 5.4 and later save rerankers without a head of their own."""

    def make(case):
        from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize

        AutoTokenizer.from_pretrained(case.folder).save_pretrained(case.folder)
        case.model.base_model.save_pretrained(case.folder)
        width = case.model.config.hidden_size
        modules = [Transformer(str(case.folder)), Pooling(width, pooling_mode=pooling)]
        modules += [Dense(width, 24, activation_function=torch.nn.GELU(), use_residual=residual)]
        if normal == "LayerNorm":
            modules.append(LayerNorm(24))
        elif normal:
            modules.append(Normalize())
        modules.append(Dense(24, labels, activation_function=torch.nn.Identity(), module_output_name="scores"))
        for module in modules[2:]:
            for weight in module.parameters():
                torch.nn.init.normal_(weight, std=0.5)
        encoder = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity() if normal else None)
        shutil.rmtree(case.folder)
        encoder.save_pretrained(str(case.folder))
        return encoder

    return make


class Chain(torch.nn.Module):
    def __init__(self, encoder, names):
        super().__init__()
        self.encoder, self.names = encoder, names

    def forward(self, *inputs):
        return self.encoder(dict(zip(self.names, inputs)))["scores"]


def chain_graph(encoder_of):
    def run(path):
        folder = path.parent.parent
        encoder = CrossEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager", "dtype": torch.float32}).eval()
        names = ["input_ids", "attention_mask"]
        example = (torch.randint(5, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long))
        axes = {name: {0: "batch", 1: "sequence"} for name in names} | {"logits": {0: "batch"}}
        torch.onnx.export(Chain(encoder, names), example, path, input_names=names, output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False)

    return run


def st_config(**fields):
    return {"config.json": {"sentence_transformers": fields}}


MSMARCO = {"sbert_ce_default_activation_function": IDENTITY, "label2id": {"LABEL_0": 0}, "id2label": {"0": "LABEL_0"}, "gradient_checkpointing": False, "transformers_version": "4.46.3"}
WORD, CASED, LEVEL, ROBERTA, XLM, SPM = "WordPiece", "WordPiece, cased", "byte-level BPE, BERT's tokens", "byte-level BPE", "Unigram", "Unigram, BERT's tokens"
BERT_TOKENS = {"special_tokens_map.json": {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}}
MASK = {"content": "<mask>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0, "max_relative_positions": -1}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 16, "reference_compile": False, "classifier_pooling": "mean"}

# Name, what is odd about it, model type, tokeniser, class, and what Case takes.
CASES = [
    ("bge-reranker-v2-m3", "two more positions than model_max_length, <mask> that strips", "xlm-roberta", XLM, "XLMRobertaTokenizer",
     {"config": {"max_position_embeddings": 100}, "settings": {"model_max_length": 98, "clean_up_tokenization_spaces": True, "sp_model_kwargs": {}}, "files": {"special_tokens_map.json": {"mask_token": MASK, "pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}}}),
    ("bge-reranker-base", "id2label without numbers' names, no class, no special tokens file", "xlm-roberta", XLM, None, {"files": {"config.json": {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}}}),
    ("ms-marco-MiniLM-L6-v2", "activation as before 4.0, do_basic_tokenize", "bert", WORD, "BertTokenizer", {"files": {"config.json": MSMARCO, "tokenizer_config.json": {"do_basic_tokenize": True, "do_lower_case": True, "never_split": None, "strip_accents": None, "tokenize_chinese_chars": True}, **BERT_TOKENS}}),
    ("ms-marco-TinyBERT-L2-v2", "activation in both forms", "bert", WORD, "BertTokenizer", {"files": {"config.json": MSMARCO | {"sentence_transformers": {"activation_fn": SIGMOID, "version": "4.1.0.dev0"}}}}),
    ("ms-marco-electra-base", "ElectraTokenizer, summary head", "electra", WORD, "ElectraTokenizer", {"config": {"embedding_size": 16}, "files": {"config.json": MSMARCO}}),
    ("stsb-distilroberta-base", "sigmoid, trim_offsets, RoBERTa without add_prefix_space", "roberta", ROBERTA, "RobertaTokenizer", {"settings": {"add_prefix_space": False, "trim_offsets": True, "errors": "replace"}}),
    ("quora-roberta-base", "max_len for model_max_length", "roberta", ROBERTA, "RobertaTokenizer", {"settings": {"model_max_length": None, "max_len": 64}}),
    ("mxbai-rerank-v1", "relative positions, weights in fp16", "deberta-v2", SPM, "DebertaV2Tokenizer", {"config": RELATIVE | {"legacy": True}, "settings": {"sp_model_kwargs": {}, "split_by_punct": False, "vocab_type": "spm", "do_lower_case": False}, "weights": "fp16"}),
    ("mxbai-rerank-v1, max_seq_length", "relative positions, a saved length above max_position_embeddings", "deberta-v2", SPM, "DebertaV2Tokenizer", {"config": RELATIVE | {"max_position_embeddings": 40}, "saver": "sentence-transformers", "files": {"sentence_bert_config.json": {"max_seq_length": 80}}}),
    ("BERT, max_seq_length", "a table of positions, a saved length below", "bert", WORD, "BertTokenizer", {"config": {"max_position_embeddings": 90}, "saver": "sentence-transformers", "files": {"sentence_bert_config.json": {"max_seq_length": 60}}}),
    ("gte-reranker-modernbert", "classifier of the mean, plain class", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "settings": {"clean_up_tokenization_spaces": True, "model_max_length": 8192}, "files": {"config.json": {"sentence_transformers": {"activation_fn": SIGMOID, "version": "4.1.0"}}}}),
    ("modernbert, max_seq_length", "rotary positions, a saved length above max_position_embeddings", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN | {"max_position_embeddings": 40}, "saver": "sentence-transformers", "files": {"sentence_bert_config.json": {"max_seq_length": 90}}}),
    ("modernbert, plain class with types", "no model_input_names, a graph without types", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "settings": {"model_input_names": None}}),
    ("BERT, plain class", "no model_input_names, a graph with types", "bert", WORD, "PreTrainedTokenizerFast", {"settings": {"model_input_names": None}}),
    ("BERT, TokenizersBackend", "as transformers 5 names the plain class, a graph with types", "bert", CASED, "TokenizersBackend", {}),
    ("ettin-reranker", "Transformer, Pooling, Dense, LayerNorm, Dense", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "saver": "modules", "more": ettin("LayerNorm"), "graph": chain_graph(None)}),
    ("ettin-reranker, mean", "the mean of tokens, a residual Dense, a default activation", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "saver": "modules", "more": ettin("", "mean", residual=True), "graph": chain_graph(None)}),
    ("ettin-reranker, Normalize", "the greatest of tokens, then a length of one", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "saver": "modules", "more": ettin("Normalize", "max"), "graph": chain_graph(None)}),
    ("nli-deberta-v3", "three labels, one named", "deberta-v2", SPM, "DebertaV2Tokenizer", {"config": RELATIVE, "labels": 3, "label": 1, "files": {"config.json": {"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}}, "rankmill.json": {"name": "nli", "dtypes": {"fp32": "onnx/model.onnx"}, "label": 1}}}),
    ("nli-deberta-v3, no label", "three labels, none named", "deberta-v2", SPM, "DebertaV2Tokenizer", {"config": RELATIVE, "labels": 3, "label": 0}),
    ("two labels", "no and yes, the second named", "bert", WORD, "BertTokenizer", {"labels": 2, "label": 1, "files": {"config.json": {"problem_type": "single_label_classification", "id2label": {"0": "irrelevant", "1": "relevant"}}, "rankmill.json": {"name": "two", "dtypes": {"fp32": "onnx/model.onnx"}, "label": 1}}}),
    ("two labels, softmax", "no and yes", "bert", WORD, "BertTokenizer", {"labels": 2, "label": "difference", "files": {"config.json": {"problem_type": "multi_label_classification"}}}),
    ("activation Tanh", "torch's, that is not known here", "bert", WORD, "BertTokenizer", {"files": st_config(activation_fn="torch.nn.modules.activation.Tanh", version="5.0.0")}),
    ("activation Identity, upper name", "the short name of Identity", "bert", WORD, "BertTokenizer", {"files": st_config(activation_fn="torch.nn.Identity", version="5.0.0")}),
    ("activation Sigmoid, short name", "torch.nn.Sigmoid", "bert", WORD, "BertTokenizer", {"files": st_config(activation_fn="torch.nn.Sigmoid", version="5.0.0")}),
    ("activation LogSigmoid", "ends like Sigmoid and is another", "bert", WORD, "BertTokenizer", {"files": st_config(activation_fn="torch.nn.LogSigmoid", version="5.0.0")}),
    ("activation a function", "torch.sigmoid is no class", "bert", WORD, "BertTokenizer", {"files": st_config(activation_fn="torch.sigmoid", version="5.0.0")}),
    ("jina-reranker-v1", "code of its own under BERT's type", "bert", WORD, "BertTokenizer", {"files": {"config.json": {"auto_map": {"AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig", "AutoModelForSequenceClassification": "jinaai/jina-bert-implementation--modeling_bert.JinaBertForSequenceClassification"}, "position_embedding_type": "alibi"}}}),
    ("jina-reranker-v2", "xlm-roberta-flash", "xlm-roberta", XLM, "XLMRobertaTokenizer", {"files": {"config.json": {"auto_map": {"AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaFlashForSequenceClassification"}, "model_type": "xlm-roberta-flash"}}}),
    ("gte-multilingual-reranker", "NewModel, code of its own", "xlm-roberta", XLM, "XLMRobertaTokenizer", {"files": {"config.json": {"auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig"}, "model_type": "new", "architectures": ["NewForSequenceClassification"]}}}),
    ("padding_side left", "a BERT that pads on the left", "bert", WORD, "BertTokenizer", {"settings": {"padding_side": "left"}}),
    ("truncation_side left", "in tokenizer_config.json", "bert", WORD, "BertTokenizer", {"settings": {"truncation_side": "left"}}),
    ("truncation_side left, processor_kwargs", "in sentence_bert_config.json", "bert", WORD, "BertTokenizer", {"saver": "sentence-transformers", "files": {"sentence_bert_config.json": {"processor_kwargs": {"truncation_side": "left"}}}}),
    ("no padding token", "byte-level BPE without one", "roberta", ROBERTA, "GPT2Tokenizer", {"settings": {"pad_token": None, "model_input_names": ["input_ids", "attention_mask"]}}),
    ("vocab.txt alone", "no tokenizer.json", "bert", WORD, "BertTokenizer", {"files": {"tokenizer.json": None, "vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n"}}),
    ("never_split", "words that are never split", "bert", WORD, "BertTokenizer", {"settings": {"never_split": ["retry"]}}),
    ("additional_special_tokens", "a token of its own", "bert", WORD, "BertTokenizer", {"settings": {"additional_special_tokens": ["job"]}}),
    ("extra_special_tokens", "as transformers 5 writes them", "bert", WORD, "BertTokenizer", {"settings": {"extra_special_tokens": ["worker"]}}),
    ("sentence-transformers 3", "max_length of no file, architectures alone", "bert", WORD, "BertTokenizer", {"files": {"config.json": {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "architectures": ["BertForSequenceClassification"]}, "tokenizer_config.json": {"tokenizer_class": "BertTokenizerFast", "truncation_strategy": "longest_first", "stride": 0, "max_length": 20, "truncation": True}}}),
    ("sentence-transformers 5, prompts", "a default prompt, kept in modules' settings", "bert", WORD, "BertTokenizer", {"saver": "sentence-transformers", "more": {"prompts": {"q": "query: "}, "default_prompt_name": "q"}}),
    ("custom module", "a Transformer of the folder's own code", "bert", WORD, "BertTokenizer", {"saver": "sentence-transformers", "files": {"modules.json": [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}]}}),
    ("keep_in_fp32_modules", "layers that stay in fp32", "bert", WORD, "BertTokenizer", {"saver": "sentence-transformers", "files": {"config_sentence_transformers.json": {"keep_in_fp32_modules": ["0.model.classifier"]}}}),
    ("graph: [batch]", "an output without columns", "bert", WORD, "BertTokenizer", {"graph": reshaped([-1], ["batch"])}),
    ("graph: [batch, tokens, 1]", "an output a token", "bert", WORD, "BertTokenizer", {"graph": reshaped([-1, 1, 1], ["batch", "sequence", 1])}),
    ("graph: output score", "a name of its own", "bert", WORD, "BertTokenizer", {"graph": renamed_output("score")}),
    ("graph: int32", "narrow inputs", "bert", WORD, "BertTokenizer", {"graph": edited(narrow)}),
    ("graph: input_1", "inputs by other names", "bert", WORD, "BertTokenizer", {"graph": renamed_input("input_ids", "input_1")}),
    ("graph: external data", "weights beside it", "bert", WORD, "BertTokenizer", {"graph": external}),
    ("graph: hidden states", "an output before the logits", "bert", WORD, "BertTokenizer", {"graph": edited(hidden_beside)}),
    ("ELECTRA, 512 of 96", "a model_max_length of transformers' great number", "electra", WORD, "ElectraTokenizer", {"config": {"max_position_embeddings": 60}, "settings": {"model_max_length": 1000000000000000019884624838656}}),
    ("MPNet", "positions behind the padding id", "mpnet", WORD, "MPNetTokenizer", {"config": {"max_position_embeddings": 60}, "settings": {"model_max_length": 58}}),
    ("XLM-R, fewer positions", "model_max_length below them", "xlm-roberta", XLM, "XLMRobertaTokenizer", {"config": {"max_position_embeddings": 80}, "settings": {"model_max_length": 70}}),
    ("CamemBERT", "NOTUSED tokens", "camembert", XLM, "CamembertTokenizer", {"settings": {"additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED"]}}),
    ("distilbert, types asked", "a class that gives types for a model that takes none", "distilbert", WORD, "BertTokenizer", {"config": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}}),
    ("multilingual BERT, cased", "do_lower_case false, strip_accents null", "bert", CASED, "BertTokenizer", {"settings": {"strip_accents": None, "tokenize_chinese_chars": True}}),
    ("BERT, class of nobody", "a tokenizer_class that transformers lacks", "bert", WORD, "MyOwnTokenizer", {}),
    ("BERT, lower case twice", "do_lower_case in sentence_bert_config.json", "bert", CASED, "BertTokenizer", {"saver": "sentence-transformers", "files": {"sentence_bert_config.json": {"do_lower_case": True}}}),
    ("chat template on an encoder", "one that carries no pair", "modernbert", LEVEL, "PreTrainedTokenizerFast", {"config": MODERN, "settings": {"chat_template": "{{ messages[0].content }}"}}),
]


def score_all(case):
    encoder = CrossEncoder(str(case.folder), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}, local_files_only=True)
    rows = []
    for query in QUERIES:
        # The first query meets all texts, the others every fourth.
        for text in TEXTS[:: 1 if query == QUERIES[0] else 4]:
            values = np.asarray(encoder.predict([(query, text)], batch_size=1, show_progress_bar=False))[0]
            if np.ndim(values) == 0:
                rows.append(float(values))
            elif case.label == "difference":
                rows.append(float(values[1] - values[0]))
            else:
                rows.append(float(values[case.label or 0]))
    return rows


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--only", help="cases whose name has the word")
    given = arguments.parse_args()
    styles = {name: rest for name, *rest in tokenizers_by_style(all_models())}
    cells = []
    for number, (name, what, model_type, style, class_name, more) in enumerate(CASES):
        if given.only and given.only not in name:
            continue
        scores, note = None, ""
        case = None
        try:
            case = Case(given.out, styles, number, name, what, model_type, style, class_name, **more)
            case.finish()
            scores = score_all(case)
        except Exception as error:
            note = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:140] if str(error).strip() else ''}"
        (given.out / f"p{number:02}.json").write_text(json.dumps({"folder": f"p{number:02}", "name": name, "what": what, "scores": scores, "note": note}))
        cells.append({"folder": f"p{number:02}", "name": name, "what": what, "scores": scores, "note": note})
        print(f"p{number:02}", name, "|", note or f"{min(scores):.3f}..{max(scores):.3f}", flush=True)
    reference = f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    (given.out / "public.json").write_text(json.dumps({"reference": reference, "queries": QUERIES, "documents": TEXTS, "cells": cells}, ensure_ascii=False))


if __name__ == "__main__":
    main()
