"""Writes the ONNX graph of a cross-encoder that is saved as weights alone; `rankmill models add` runs it.

    pip install -r export-requirements.txt
    python export.py FOLDER onnx/model.onnx

FOLDER holds config.json, the tokeniser, and model.safetensors (or its shards, or pytorch_model.bin, of which nothing but tensors
is read). The graph is what transformers' AutoModelForSequenceClassification computes in fp32, as torch's exporter traces it, with
the inputs that the tokeniser gives, and any batch and length. Code that a folder brings along is never run, and no hub is asked.

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
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

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
        return self.model(**dict(zip(self.names, inputs))).logits


def load(folder):
    # Eager attention, because the fused kinds are traced into what they do for one shape.
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager', local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    for kind in ('missing_keys', 'mismatched_keys'):
        # A head that is not in the file would be made up at random.
        lacking = sorted(str(key) for key in info.get(kind) or ())
        if lacking:
            raise Unsuitable(f'the weights do not hold all of {type(model).__name__} ({kind.split("_")[0]}: {", ".join(lacking[:3])}): this is no cross-encoder')
    return model.eval()


def inputs_of(model, folder):
    """What the tokeniser gives for a pair, as far as the model takes it; two rows, of which one is padded."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    given = tokenizer('a query', 'and a document of some words')
    takes = inspect.signature(model.forward).parameters
    names = [name for name in INPUTS if name == 'attention_mask' or (name in given and name in takes)]
    ids = given['input_ids']
    length, pad = len(ids) + 3, tokenizer.pad_token_id or 0
    rows = {
        'input_ids': [ids + ids[-1:] * 3, ids + [pad] * 3],
        'attention_mask': [[1] * length, [1] * len(ids) + [0] * 3],
        'token_type_ids': [list(kinds) + [0] * 3 for kinds in [given.get('token_type_ids', [0] * len(ids))] * 2],
    }
    return names, tuple(torch.tensor(rows[name], dtype=torch.long) for name in names)


def export(folder, target):
    model = load(folder)
    names, example = inputs_of(model, folder)
    axes = {name: {0: 'batch', 1: 'sequence'} for name in names} | {'logits': {0: 'batch'}}
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        # Of large models the exporter writes a file for each weight; here they become one.
        traced = pathlib.Path(beside, 'model.onnx')
        with torch.no_grad():
            torch.onnx.export(Head(model, names), example, str(traced), input_names=names, output_names=['logits'], dynamic_axes=axes, opset_version=OPSET, dynamo=False)
        graph = onnx.load(traced)
        save(graph, target)
    return {'inputs': [entry.name for entry in graph.graph.input], 'labels': model.config.num_labels, 'architecture': type(model).__name__, 'opset': OPSET}


def main():
    parser = argparse.ArgumentParser(description='Export a cross-encoder to ONNX.')
    parser.add_argument('folder', type=pathlib.Path, help='config.json, tokeniser and weights')
    parser.add_argument('target', type=pathlib.Path, help='the file to write')
    options = parser.parse_args()
    try:
        done = export(options.folder, options.target)
    except Exception as fault:
        lines = str(fault).strip().splitlines() or ['']
        sys.exit(print(f'{options.folder}: {"" if isinstance(fault, Unsuitable) else type(fault).__name__ + ": "}{lines[0]}', file=sys.stderr) or 3)
    versions = {'torch': torch.__version__, 'transformers': transformers.__version__, 'onnx': onnx.__version__}
    print(json.dumps({**done, 'versions': versions}))


if __name__ == '__main__':
    main()
