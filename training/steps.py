"""Measures the steps of activations in int8 and rounds weights to suit, on texts of the training domains; writes a model's formats again.

    python steps.py ../models/rankmill-small … [--texts 3000]

Of the places where a product of a weight reads rows, some are kept from a few thousand texts. Ways to even out the channels and
shares of the largest value that a byte reaches are tried, and what brings the product nearest to fp32 is taken; then `rounding.py` rounds
each weight on the same rows. Needs data.py's pairs, numpy, onnx, onnxruntime and tokenizers.
"""
import argparse
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from tokenizers import Tokenizer

from evening import even_steps, weighing
from graph import Int8
from int8 import GELU_LEAST, GELU_ZERO, STEPS_ABOVE
from master import digests, kept_shape, rounded, write_graphs
from networks import write_bi_encoder, write_cross_encoder
from quantize import by_column
from rounding import rounded as well_rounded

TEXTS, BATCH, LONGEST = 3000, 4, 256
ROWS = 20_000  # of each place
QUERIES = 0.4  # share of the rows that are of queries: they are few, and the score hangs on them


def texts_of(kind, pairs, count, seed=0):
    """Passages, or queries with a passage: every second one their own."""
    chosen = random.Random(seed).sample(pairs, count)
    if kind == 'bi-encoder':
        return [passage for _, _, passage in chosen]
    return [(query, passage if i % 2 else chosen[i - 1][2]) for i, (_, query, passage) in enumerate(chosen)]


def places_of(state, exits):
    """What each place's rows are called in the fp32 graph, and the layers that read them."""
    places = {}
    for name in state:
        if not name.endswith(('qkv.weight', 'out.weight', 'up.weight', 'down.weight')):
            continue
        group, i, kind = name.split('.')[:3]
        before = {'qkv': 'embedding.norm' if i == '0' else f'layers.{int(i) - 1}.norm2', 'out': f'{group}.{i}.context', 'down': f'{group}.{i}.inner',
                  'up': f'layers.{i}.norm1' if group == 'layers' else f'layers.{exits[int(i)] - 1}.norm2'}[kind]
        places.setdefault(before, []).append(f'{group}.{i}.{kind}')
    return places


def batches_of(folder, texts):
    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    tokenizer.enable_truncation(LONGEST, strategy='longest_first')
    tokenizer.no_padding()
    encoded = sorted(tokenizer.encode_batch(texts), key=lambda e: len(e.ids))
    for a in range(0, len(encoded), BATCH):
        some = encoded[a:a + BATCH]
        feed = {n: np.zeros((len(some), max(len(e.ids) for e in some)), np.int64) for n in ('input_ids', 'attention_mask', 'token_type_ids')}
        for r, e in enumerate(some):
            for name, values in zip(feed, (e.ids, e.attention_mask, e.type_ids)):
                feed[name][r, :len(values)] = values
        yield feed


def rows_of(folder, state, kind, layers, exits, places, texts):
    """Some of each place's rows, [rows, channels]."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, 'model.onnx')
        if kind == 'bi-encoder':
            write_bi_encoder(path, state, layers)
        else:
            write_cross_encoder(path, state, exits, every=True)
        model = onnx.load(path)
        model.graph.output.extend(helper.make_tensor_value_info(p, onnx.TensorProto.FLOAT, None) for p in places)
        session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    feeds = list(batches_of(folder, texts))
    queries = [(f['attention_mask'] == 1) & (f['token_type_ids'] == 0) for f in feeds]
    of_queries = 1 if kind == 'bi-encoder' else QUERIES
    counts = [sum(q.sum() for q in queries), sum(f['token_type_ids'].sum() for f in feeds)]
    shares = [min(1, ROWS * share / max(1, count)) for share, count in zip((of_queries, 1 - of_queries), counts)]
    rng, found = np.random.default_rng(0), {p: [] for p in places}
    for feed, query in zip(feeds, queries):
        taken = rng.random(query.shape) < np.where(query, shares[0], shares[1] * feed['token_type_ids'])
        for place, values in zip(places, session.run(list(places), {i.name: feed[i.name] for i in session.get_inputs()})):
            found[place].append(values[taken].astype(np.float16))
    # Feeds go by length: rows that are tried should be of all.
    order = rng.permutation(sum(map(len, found[next(iter(places))])))
    return {p: np.concatenate(values)[order] for p, values in found.items()}


def measure(folder, state, kind, layers, exits, pairs, texts=TEXTS):
    """What a step is worth, as the state has it: `back` and `centre` of each normalisation and of the heads' values; and weights in int8."""
    places = places_of(state, exits)
    found, state = rows_of(folder, state, kind, layers, exits, places, texts_of(kind, pairs, texts)), dict(state)
    for place, readers in places.items():
        if place.endswith('inner'):
            continue
        context = place.endswith('context')
        w = np.concatenate([state[r + '.weight'].T for r in readers], 1).astype(np.float32)
        name = readers[0] if context else place
        rows = found[place].astype(np.float32) - (0 if context else state[place + '.bias'])
        lost, how, back, centre = even_steps(rows, w)
        state[name + '.back'], state[name + '.centre'] = back, centre
        found[place] = ((rows - centre) / back).astype(np.float16)
        print(f'{place}: {how}, rows lose {lost[0]:.4f}, weights {lost[1]:.4f} of the product', flush=True)
    place_of = {reader: place for place, readers in places.items() for reader in readers}
    made = {}

    def rounding(name, w):
        group, i, part = name.split('.')
        x = found[place_of[f'{group}.{i}.{"qkv" if part in ("queries", "keys", "values") else part}']].astype(np.float32)
        least, most, size = -128, 127, None
        if part == 'down':
            least, most = -GELU_ZERO, STEPS_ABOVE
            size = np.maximum(x.max(1, keepdims=True), GELU_LEAST * STEPS_ABOVE / GELU_ZERO) / STEPS_ABOVE
            x = x / size
        own, kinds = w[:x.shape[1]], w[x.shape[1]:]
        # Of rows that a sum is made of, those count most that are small in it; a normalisation follows.
        weight = np.ones(len(x), np.float32)
        if part in ('out', 'down'):
            weight = np.square(weighing(x @ own * (1 if size is None else size)) * (1 if size is None else size))[:, 0]
        q, scale, moved = well_rounded(x, own, least, most, weight, size)
        if len(kinds):
            # Columns of the kinds have no other weights, and are exact.
            alone, theirs = by_column(kinds)
            used = np.abs(kinds).max(0) > 0
            scale, q = np.where(used, theirs, scale), np.concatenate([np.where(used, 0, q), alone])
        made[name + '.q'], made[name + '.scale'], made[name + '.moved'] = q.astype(np.int8), scale.astype(np.float32), moved.astype(np.float32)
        return made[name + '.q'], made[name + '.scale'], made[name + '.moved']

    with tempfile.TemporaryDirectory() as scratch:
        if kind == 'bi-encoder':
            write_bi_encoder(Path(scratch, 'model.onnx'), state, layers, 'int8', Int8(rounding=rounding))
        else:
            write_cross_encoder(Path(scratch, 'model.onnx'), state, exits, 'int8', every=True, scheme=Int8(rounding=rounding))
    return {**{n: v for n, v in state.items() if n.endswith(('.back', '.centre'))}, **made}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('folders', nargs='+', type=Path)
    options.add_argument('--texts', type=int, default=TEXTS)
    options = options.parse_args()
    from settings import CACHE
    pairs = json.loads((CACHE / 'data/pairs.json').read_text())
    for folder in options.folders:
        kind, layers, exits, state = kept_shape(folder)
        state = {n: v for n, v in rounded(state).items() if not n.endswith(('.q', '.scale', '.moved', '.smooth'))}
        write_graphs(folder, {**state, **measure(folder, state, kind, layers, exits, pairs, options.texts)}, kind, layers, exits)
        file = folder / 'rankmill.json'
        file.write_text(json.dumps({**json.loads(file.read_text()), 'sha256': digests(folder)}, indent=2) + '\n')


if __name__ == '__main__':
    main()
