"""Learns by how much a candidate may be behind at an exit and still be among the first in the end, and how the scores of smaller
models compare with those of the model; writes both to rankmill.json.

    python margins.py [--model small] [--smaller nano] [--dtype int8] [--queries N]
    python margins.py --check FOLDER…    writes nothing: by confidence, what the margins in rankmill.json keep and spare on judged queries

Reads the scores of all stages over the lists of .cache/heldout-weights, which no model was trained on and no figure is taken from
(evaluate.py makes them, and keeps the scores). For each exit but the last:

calibration  the line that brings its logits nearest to the final ones, in least squares
margins      by confidence c: of the candidates that are among the first k in the end, a share c is still there after the last exit,
             where those leave that are further than the margin behind the k-th. Each exit may lose the same share. The widest
             over k = 1, 3, 5, 10, 20 counts, as far as there are enough candidates to tell; a confidence that no k can tell is left out; a
             higher one never has the narrower margin.
calibrations of a smaller model: the line that brings its logits nearest to the model's
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np

CONFIDENCES = (0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
FIRST = (1, 3, 5, 10, 20)
ENOUGH = 2  # candidates that may be lost of those looked at


def calibration(early, final):
    scale, offset = np.polyfit(np.concatenate(early), np.concatenate(final), 1)
    assert scale > 0, 'an exit whose scores rise where the final ones fall'
    return float(scale), float(offset)


def behind(early, final, k):
    """How far each of a list's final first k is behind the k-th at the exit; 0 for those that are not."""
    needed = []
    for e, f in zip(early, final):
        if len(e) > k:
            needed.append(np.maximum(0, np.sort(e)[-k] - e[np.argsort(-f, kind='stable')[:k]]))
    return np.concatenate(needed) if needed else np.array([])


def margin(early, final, loss):
    """The least margin that loses no more than this share; None where the lists are too few to tell."""
    widest = [np.quantile(b, 1 - loss, method='higher') for b in (behind(early, final, k) for k in FIRST) if len(b) * loss >= ENOUGH]
    return float(max(widest)) if widest else None


def learn(lists):
    """For each exit but the last its calibration and margins; `lists` holds [exits, candidates] arrays."""
    final, count = [s[-1] for s in lists], len(lists[0]) - 1
    found = []
    for k in range(count):
        scale, offset = calibration([s[k] for s in lists], final)
        early = [scale * s[k] + offset for s in lists]
        by_confidence = {c: margin(early, final, (1 - c) / count) for c in CONFIDENCES}
        # A higher confidence is told by fewer k, which may need less.
        least = 0
        for c, m in by_confidence.items():
            if m is not None:
                by_confidence[c] = least = max(least, m)
        found.append({'calibration': {'scale': round(scale, 4), 'offset': round(offset, 4)},
                      'margins': {str(c): math.ceil(m * 1000) / 1000 for c, m in by_confidence.items() if m is not None}})
    return found


def left(exits, scores, k, confidence):
    """Which candidates of a list are still there at each exit, [exits, candidates], for the first `k`."""
    still = [np.ones(scores.shape[1], bool)]
    for exit, early in zip(exits[:-1], scores):
        estimates = exit['calibration']['scale'] * early + exit['calibration']['offset']
        there = estimates[still[-1]]
        # As the worker has it: nobody leaves while all of them are wanted.
        behind_kth = np.sort(there)[-k] if len(there) > k else -np.inf
        still.append(still[-1] & (estimates + exit['margins'][confidence] >= behind_kth))
    return np.array(still)


def check(exits, lists, k=10):
    for confidence in exits[0]['margins']:
        if all(confidence in exit['margins'] for exit in exits[:-1]):
            still = [left(exits, scores, k, confidence) for scores in lists]
            kept = np.mean([s[-1][np.argsort(-scores[-1], kind='stable')[:k]].mean() for s, scores in zip(still, lists)])
            print(f'  confidence {confidence}: {kept:.4f} of the first {k} kept, went on after each exit',
                  *(f'{np.concatenate([s[i] for s in still]).mean():.3f}' for i in range(1, len(exits))))


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--model', default='small')
    options.add_argument('--smaller', nargs='*', default=['nano'])
    options.add_argument('--dtype', default='int8')
    options.add_argument('--queries', type=int, help='at most so many, evenly taken')
    options.add_argument('--check', nargs='+', type=Path, help='BEIR-style folders')
    options = options.parse_args()
    from collection import HALVES, Collection
    from evaluate import CrossEncoder, scores_of
    from settings import CACHE, MODELS

    def read(name, collection):
        folder = MODELS / f'rankmill-{name}'
        model = CrossEncoder(folder, options.dtype, 512)
        return folder / 'rankmill.json', list(scores_of(collection, model, 512).values())

    if options.check:
        for folder in options.check:
            collection = Collection(folder, options.queries)
            file, lists = read(options.model, collection)
            print(f'{collection.name}, {len(lists)} queries')
            check(json.loads(file.read_text())['exits'], lists)
        return
    collection = Collection(CACHE / HALVES[0], options.queries)
    file, lists = read(options.model, collection)
    if len(lists[0]) < 2:
        raise SystemExit(f'{file.parent} has no exits')
    manifest = json.loads(file.read_text())
    for exit, learned in zip(manifest['exits'], learn(lists)):
        exit.update(learned)
        print(f'layer {exit["layer"]}', learned)
    file.write_text(json.dumps(manifest, indent=2) + '\n')
    for name in options.smaller:
        other, theirs = read(name, collection)
        scale, offset = calibration([s[-1] for s in theirs], [s[-1] for s in lists])
        smaller = json.loads(other.read_text())
        smaller['calibrations'] = {manifest['name']: {'scale': round(scale, 4), 'offset': round(offset, 4)}}
        other.write_text(json.dumps(smaller, indent=2) + '\n')
        print(name, smaller['calibrations'])


if __name__ == '__main__':
    main()
