"""Writes the ONNX graph of a reranker that is saved as weights alone; `rankmill models add` runs it.

    pip install -r export-requirements.txt
    python export.py FOLDER onnx/model.onnx
    python export.py FOLDER onnx/model.onnx --chain            # modules of sentence-transformers behind a bare encoder
    python export.py FOLDER onnx/model.onnx --answers 2152,9693   # a causal model: the tokens of "no" and "yes"

FOLDER holds config.json, the tokeniser, and model.safetensors (or its shards, or pytorch_model.bin, of which nothing but tensors
is read). The graph is what transformers' AutoModelForSequenceClassification computes in fp32 (with --chain what sentence-transformers'
CrossEncoder does, with --answers what AutoModelForCausalLM does, with the two rows of its head that make the score, and keys and
values of what was read before), as torch's exporter traces it, for any batch and length. Code that a folder brings along is never
run, and no hub is asked.

A line of JSON on standard output says what was done; what cannot be exported ends with 3, a missing package with 4, each with one
line on standard error.
"""
import argparse
import inspect
import json
import os
import pathlib
import sys
import tempfile
import warnings

os.environ |= {'HF_HUB_OFFLINE': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1', 'TQDM_DISABLE': '1', 'TRANSFORMERS_VERBOSITY': 'error', 'TOKENIZERS_PARALLELISM': 'false'}
warnings.filterwarnings('ignore')

try:
    import onnx
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.cache_utils import DynamicCache

    from quantize import save
except ImportError as missing:
    sys.exit(print(f'{sys.executable}: {missing}', file=sys.stderr) or 4)

OPSET = 17
INPUTS = ('input_ids', 'attention_mask', 'token_type_ids')


class Unsuitable(Exception):
    """What is wrong with the folder, in one sentence."""


class Head(torch.nn.Module):
    """The logits alone, with inputs by place, as the exporter wants them."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        given = dict(zip(self.names, inputs))
        if is_causal(self.model.config):
            given['attention_mask'] = visible(self.model.config, given['attention_mask'], given['input_ids'].shape[1])
        return self.model(**given).logits


class Chain(torch.nn.Module):
    """All modules of a CrossEncoder, one behind another."""

    def __init__(self, encoder, names):
        super().__init__()
        self.encoder, self.names = encoder, names

    def forward(self, *inputs):
        return self.encoder(dict(zip(self.names, inputs)))['scores']


class Answers(torch.nn.Module):
    """The logits of the answers at every token, and keys and values with what was read before."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, positions, *past):
        # As it was read: sliding windows are in the mask alone, so that every layer keeps all of it.
        kept = DynamicCache(ddp_cache_data=list(zip(past[::2], past[1::2])))
        told = {CACHE: kept, 'use_cache': True}
        logits = self.model(input_ids=ids, attention_mask=visible(self.model.config, mask, ids.shape[1]), position_ids=positions, **told).logits
        return (logits, *(state for layer in kept.layers for state in (layer.keys, layer.values)))


# What transformers 5.40 renames.
CACHE = 'cache' if 'cache' in inspect.signature(transformers.LlamaModel.forward).parameters else 'past_key_values'


def is_causal(config):
    """Whether each token sees those before it alone."""
    return type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and getattr(config, 'is_decoder', True) is not False and config.model_type not in ENCODERS


# Encoders that can be made into decoders.
ENCODERS = frozenset('albert bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod'.split())


def visible(config, mask, length):
    """What each of the last `length` tokens sees of all, as transformers' own masks have it, which cannot be traced."""
    total = mask.shape[1]
    column = torch.arange(total)
    row = column[total - length :].unsqueeze(1)
    seen = mask[:, None, None, :].bool() & (column <= row)
    hidden = lambda seen: torch.where(seen, 0.0, torch.finfo(torch.float32).min)  # noqa: E731
    kinds = set(getattr(config, 'layer_types', None) or ())
    window = getattr(config, 'sliding_window', None)
    if window and not kinds and getattr(config, 'use_sliding_window', True):
        return hidden(seen & (column > row - window))
    if kinds <= {'full_attention'}:
        return hidden(seen) if not kinds or config.model_type not in BY_KIND else {'full_attention': hidden(seen)}
    if not kinds <= {'full_attention', 'sliding_attention'}:
        raise Unsuitable(f'layers of the kinds {", ".join(sorted(kinds))} are not known')
    return {'full_attention': hidden(seen), 'sliding_attention': hidden(seen & (column > row - window))}


# Model types that take a mask for each kind of layer.
BY_KIND = frozenset(('qwen2', 'qwen3', 'gemma2', 'gemma3_text', 'smollm3', 'ministral', 'olmo3'))
LOADING = {'dtype': torch.float32, 'attn_implementation': 'eager'}


def load(folder, kind):
    # Eager attention, because the fused kinds are traced into what they do for one shape.
    model, info = kind.from_pretrained(folder, **LOADING, local_files_only=True, trust_remote_code=False, output_loading_info=True)
    for what in ('missing_keys', 'mismatched_keys'):
        # A head that is not in the file would be made up at random.
        lacking = sorted(str(key) for key in info.get(what) or ())
        if lacking:
            raise Unsuitable(f'the weights do not hold all of {type(model).__name__} ({what.split("_")[0]}: {", ".join(lacking[:3])}): this is no reranker of that kind')
    return model.eval()


def inputs_of(takes, folder):
    """What the tokeniser gives for a pair, as far as the model takes it; two rows, of which one is padded."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    given = tokenizer('a query', 'and a document of some words')
    names = [name for name in INPUTS if name == 'attention_mask' or (name in given and name in takes)]
    ids = given['input_ids']
    length, pad = len(ids) + 3, tokenizer.pad_token_id or 0
    rows = {
        'input_ids': [ids + ids[-1:] * 3, ids + [pad] * 3],
        'attention_mask': [[1] * length, [1] * len(ids) + [0] * 3],
        'token_type_ids': [list(kinds) + [0] * 3 for kinds in [given.get('token_type_ids', [0] * len(ids))] * 2],
    }
    return names, tuple(torch.tensor(rows[name], dtype=torch.long) for name in names)


def classifier(folder):
    model = load(folder, AutoModelForSequenceClassification)
    names, example = inputs_of(inspect.signature(model.forward).parameters, folder)
    if is_causal(model.config) and model.config.get_text_config().pad_token_id is None:
        raise Unsuitable('config.json has no pad_token_id, by which the model finds the last token of each row')
    axes = {name: {0: 'batch', 1: 'sequence'} for name in names} | {'logits': {0: 'batch'}}
    return Head(model, names), example, names, ['logits'], axes, model.config.num_labels, type(model).__name__


def chain(folder):
    encoder = CrossEncoder(str(folder), device='cpu', local_files_only=True, trust_remote_code=False, model_kwargs=LOADING).eval()
    model = encoder.transformers_model
    names, example = inputs_of(inspect.signature(model.forward).parameters, folder)
    axes = {name: {0: 'batch', 1: 'sequence'} for name in names} | {'logits': {0: 'batch'}}
    return Chain(encoder, names), example, names, ['logits'], axes, encoder.num_labels, type(model).__name__


def causal(folder, answers):
    model = load(folder, AutoModelForCausalLM)
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    if max(answers) >= head.weight.shape[0]:
        raise Unsuitable(f'the head has {head.weight.shape[0]} tokens, and none with the number {max(answers)}')
    rows = torch.nn.Linear(head.weight.shape[1], len(answers), bias=head.bias is not None)
    rows.weight.data = head.weight.data[answers].clone()
    if head.bias is not None:
        rows.bias.data = head.bias.data[answers].clone()
    # Behind it whatever the model does to logits stays.
    model.set_output_embeddings(rows)
    heads = getattr(config, 'num_key_value_heads', None) or config.num_attention_heads
    width = getattr(config, 'head_dim', None) or config.hidden_size // config.num_attention_heads
    states = [f'{layer}.{part}' for layer in range(config.num_hidden_layers) for part in ('key', 'value')]
    before, length = 5, 7
    mask = torch.ones(2, before + length, dtype=torch.long)
    mask[1, -3:] = 0
    example = (torch.randint(3, 50, (2, length)), mask, (torch.arange(length) + before).repeat(2, 1), *(torch.randn(2, heads, before, width) for _ in states))
    names = ['input_ids', 'attention_mask', 'position_ids', *(f'past_key_values.{state}' for state in states)]
    outputs = ['logits', *(f'present.{state}' for state in states)]
    tokens = {0: 'batch', 1: 'sequence'}
    axes = {'input_ids': tokens, 'attention_mask': {0: 'batch', 1: 'total'}, 'position_ids': tokens, 'logits': tokens}
    axes |= {f'past_key_values.{state}': {0: 'batch', 2: 'past'} for state in states} | {f'present.{state}': {0: 'batch', 2: 'total'} for state in states}
    return Answers(model), example, names, outputs, axes, 1, type(model).__name__


def export(folder, target, options):
    answers = [int(token) for token in options.answers.split(',')] if options.answers else None
    network, example, names, outputs, axes, labels, architecture = causal(folder, answers) if answers else chain(folder) if options.chain else classifier(folder)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        # Of large models the exporter writes a file for each weight; here they become one.
        traced = pathlib.Path(beside, 'model.onnx')
        with torch.no_grad():
            torch.onnx.export(network.eval(), example, str(traced), input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=OPSET, dynamo=False)
        graph = onnx.load(traced)
        if answers:
            graph.metadata_props.add(key='rankmill.head', value=json.dumps(answers))
        save(graph, target)
    return {'inputs': [entry.name for entry in graph.graph.input], 'labels': labels, 'architecture': architecture, 'opset': OPSET}


def main():
    parser = argparse.ArgumentParser(description='Export a reranker to ONNX.')
    parser.add_argument('folder', type=pathlib.Path, help='config.json, tokeniser and weights')
    parser.add_argument('target', type=pathlib.Path, help='the file to write')
    parser.add_argument('--answers', help='token ids of "no" and "yes" of a causal model, with a comma between them')
    parser.add_argument('--chain', action='store_true', help="sentence-transformers' modules behind a bare encoder are part of it")
    options = parser.parse_args()
    try:
        done = export(options.folder, options.target, options)
    except Exception as fault:
        lines = str(fault).strip().splitlines() or ['']
        sys.exit(print(f'{options.folder}: {"" if isinstance(fault, Unsuitable) else type(fault).__name__ + ": "}{lines[0]}', file=sys.stderr) or 3)
    versions = {'torch': torch.__version__, 'transformers': transformers.__version__, 'onnx': onnx.__version__}
    print(json.dumps({**done, 'versions': versions}))


if __name__ == '__main__':
    main()
