"""Ways to compute rankmill-small in int8: speed, rank correlation with fp32, and whether a score depends on the batch.

    python schemes.py [--queries 10] [--model small]

On BM25's first 100 of held-out queries of the training domains, one thread, batches of 4 of like length. The table goes to
results.json too.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from collection import DEPTH, HALVES, Collection, write_held_out
from evaluate import batches, padded, session, tokenizer_of
from graph import Int8
from master import read_state
from networks import write_cross_encoder
from settings import CACHE, HERE, MODELS

TOKENS = 192


def folded(path, into):
    """The graph with its weights as plain fp32, which onnxruntime's quantisers want."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(into)
    ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return into


def dynamic(fp32, path):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(fp32, path, op_types_to_quantize=['MatMul'], per_channel=True, weight_type=QuantType.QInt8,
                     extra_options={'DefaultTensorType': 1, 'MatMulConstBOnly': True})


def ranks(values):
    return np.argsort(np.argsort(values)).astype(float)


class Task:
    def __init__(self, folder, queries):
        collection, tokenizer = Collection(CACHE / HALVES[1]), tokenizer_of(folder, TOKENS)
        # A short list has no ranks to compare.
        full = [(q, run) for q, run in collection.run.items() if len(run) == DEPTH]
        count = min(queries, len(full))
        self.lists = [tokenizer.encode_batch([(collection.queries[q], collection.documents[d]) for d, _ in run])
                      for q, run in (full[i * len(full) // count] for i in range(count))]

    def run(self, path):
        """Scores by list, CPU milliseconds a pair, and how far a score moves between alone and a padded batch of eight."""
        model = session(path)
        result, spent, count = [], 0, 0
        for pairs in self.lists:
            scores = np.zeros(len(pairs))
            for rows in batches(pairs):
                feed = padded([pairs[i] for i in rows])
                began = time.process_time()
                scores[rows] = model.run(['logits'], feed)[0][:, 0]
                spent, count = spent + time.process_time() - began, count + len(rows)
            result.append(scores)
        together = self.lists[0][:8]
        alone = [model.run(['logits'], padded([pair]))[0][0, 0] for pair in together]
        moved = np.abs(model.run(['logits'], padded(together))[0][:, 0] - alone).max()
        return result, spent / count * 1000, float(moved)


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--queries', type=int, default=10)
    options.add_argument('--model', default='small')
    options = options.parse_args()
    write_held_out()
    folder = MODELS / f'rankmill-{options.model}'
    manifest, state = json.loads((folder / 'rankmill.json').read_text()), read_state(folder)
    layers = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('layers.'))
    exits = [e['layer'] for e in manifest.get('exits', [])] or [layers]
    task, table = Task(folder, options.queries), {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_cross_encoder(scratch / 'whole.onnx', state, exits)
        fp32 = folded(scratch / 'whole.onnx', scratch / 'fp32.onnx')
        ours = lambda scheme: lambda path: write_cross_encoder(path, state, exits, 'int8', scheme=scheme)
        schemes = {
            'fp32': lambda path: path.write_bytes(fp32.read_bytes()),
            'ONNX Runtime dynamic, per-channel weights': lambda path: dynamic(fp32, path),
            'ours (ships)': ours(Int8()),
            '+ down projections in fp32': ours(Int8(wide=tuple(f'layers.{i}.down' for i in range(layers)))),
            '+ first layer in fp32': ours(Int8(wide=tuple(f'layers.0.{k}' for k in ('qkv', 'out', 'up', 'down')))),
        }
        reference = None
        print('| Scheme | ms a pair | times fp32 | rank correlation | lowest of a list | alone and in a batch |\n| --- | --- | --- | --- | --- | --- |')
        for name, write in schemes.items():
            path = scratch / 'scheme.onnx'
            write(path)
            scores, milliseconds, moved = task.run(path)
            reference = reference or (scores, milliseconds)
            alike = [np.corrcoef(ranks(a), ranks(b))[0, 1] for a, b in zip(reference[0], scores)]
            row = {'ms': round(milliseconds, 2), 'speed': round(reference[1] / milliseconds, 2), 'rank_correlation': round(float(np.mean(alike)), 4),
                   'lowest': round(float(np.min(alike)), 4), 'moved': round(moved, 5)}
            table[name] = row
            print(f'| {name} | {row["ms"]} | {row["speed"]} | {row["rank_correlation"]:.4f} | {row["lowest"]:.4f} | {row["moved"]} |', flush=True)
    path = HERE / 'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    results['int8'] = {**results.get('int8', {}), manifest['name']: table}
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
    main()
