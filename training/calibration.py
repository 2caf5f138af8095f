"""Runs a graph on texts: rows of activations to measure steps on, and scores to compare.

Texts come as token ids, in a JSON file: `pad`, `measured` (pairs), and `held_out` (lists of pairs); a pair is its ids and the index of the
first token of the passage.
"""
import copy
import json
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from quantize import ONE_FILE_BYTES, Unsuitable, save

MOST_ROWS, LEAST_ROWS = 8192, 1024  # of each place
ROWS_BYTES = 1 << 30  # of all places
TOGETHER = 4  # pairs of like length in one call
ALONE = 8  # pairs that are compared alone and padded among each other
FAR = 1e9  # noise of scores that are none
INPUTS = ('input_ids', 'attention_mask', 'token_type_ids')


@dataclass
class Texts:
    pad: int
    measured: list
    held_out: list

    @staticmethod
    def read(path):
        return Texts(**json.loads(path.read_text()))


def keep(model, path):
    """Saves a model that is still needed: what is too large for one file leaves its weights there."""
    save(copy.deepcopy(model) if model.ByteSize() >= ONE_FILE_BYTES else model, path)


def session(path, threads=0):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    made = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    strange = [i.name for i in made.get_inputs() if i.name not in INPUTS]
    if strange:
        raise Unsuitable(f'the graph takes {", ".join(strange)}')
    return made


def feed(model, pairs, pad):
    longest = max(len(ids) for ids, _ in pairs)
    values = {n: np.full((len(pairs), longest), pad if n == 'input_ids' else 0, np.int64) for n in INPUTS}
    for r, (ids, second) in enumerate(pairs):
        values['input_ids'][r, :len(ids)] = ids
        values['attention_mask'][r, :len(ids)] = 1
        values['token_type_ids'][r, second:len(ids)] = 1
    return {i.name: values[i.name] for i in model.get_inputs()}


def rows_of(model, places, texts, scratch, threads):
    """Some rows of each place, [rows, channels]: of every pair its first token, and others as they come."""
    channels = sum(places.values())
    count = int(np.clip(ROWS_BYTES / (2 * max(1, channels)), LEAST_ROWS, MOST_ROWS))
    tokens = sum(len(ids) for ids, _ in texts.measured)
    share, rng = min(1, count / max(1, tokens)), np.random.default_rng(0)
    outputs = list(model.graph.output)
    model.graph.output.extend(helper.make_tensor_value_info(p, TensorProto.FLOAT, None) for p in places)
    path = scratch / 'measured.onnx'
    keep(model, path)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    run, found = session(path, threads), {p: [] for p in places}
    for pair in texts.measured:
        taken = rng.random(len(pair[0])) < share
        taken[0] = True
        for place, values in zip(places, run.run(list(places), feed(run, [pair], texts.pad))):
            if values.ndim == 3:
                found[place].append(values[0, taken].astype(np.float16))
    whole = {p: np.concatenate(v) for p, v in found.items() if v}
    order = rng.permutation(max(map(len, whole.values()), default=0))
    return {p: v[order] for p, v in whole.items()}


def scores_of(path, texts, threads):
    """What comes out for each list that is held out, [pairs, columns]; and how far a pair moves that is padded among others."""
    run, found = session(path, threads), []
    for pairs in texts.held_out:
        scores, order = None, sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
        for a in range(0, len(order), TOGETHER):
            some = order[a:a + TOGETHER]
            out = run.run(['logits'], feed(run, [pairs[i] for i in some], texts.pad))[0]
            scores = np.zeros((len(pairs), out.shape[1]), np.float32) if scores is None else scores
            scores[some] = out
        found.append(scores)
    order = sorted((pair for pairs in texts.held_out for pair in pairs), key=lambda pair: len(pair[0]))
    some = order[::max(1, len(order) // ALONE)]
    together = run.run(['logits'], feed(run, some, texts.pad))[0]
    alone = np.concatenate([run.run(['logits'], feed(run, [pair], texts.pad))[0] for pair in some])
    return found, float(np.nan_to_num(np.abs(together - alone).max(), nan=FAR))


def ranks(values):
    return np.argsort(np.argsort(values, axis=0), axis=0).astype(np.float64)


def agreement(whole, other):
    """Mean rank correlation of the lists' orders, and what scores are off by, as a share of how they vary within their list."""
    alike, noise = [], []
    if not all(np.isfinite(b).all() for b in other):
        return 0.0, FAR
    for a, b in zip(whole, other):
        for x, y in zip(a.T, b.T) if len(a) > 1 else ():
            alike.append(np.corrcoef(ranks(x), ranks(y))[0, 1])
            noise.append(np.std(x - y) / max(np.std(x), 1e-9))
    return (float(np.mean(alike)), float(np.mean(np.square(noise)) ** 0.5)) if alike else (0.0, FAR)
