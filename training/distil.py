"""Distils all-MiniLM-L6-v2's embeddings into the bi-encoder on all queries and passages of pairs.json: breadth first, filter.py's lists after.

    python distil.py --minutes 60

filter.py's passages are a fifteenth of these, because there four teachers embed them; here one does, while the student learns.
Resumable; writes .cache/distilled.pt, which `ship.py filter --checkpoint` takes and `filter.py --start distilled` goes on from.
"""
import argparse
import json
import random
import zlib

import torch
import torch.nn.functional as F

from encode import ids_of
from filter import embed, groups_of, narrowed, texts_of
from loop import Training, autocast, go_on_from_shipped, window
from model import BiEncoder, start_from
from settings import CACHE, DEVICE, SEED, base_weights

PAIRS = 48  # a step: so many queries, and as many passages
CAPS = (96, 128, 200)
SHARPNESS = 20.0  # of cosines: how near passages must be to count in what a query is like
OF_ONE_SOURCE = 0.7  # of the steps: passages of one source are harder to tell apart
HELD_OUT = 50  # one in so many


def load_pairs():
    """(training, held-out): (source, query ids, passage ids)."""
    triples = json.loads((CACHE / 'data/pairs.json').read_text())
    rows = list(zip((source for source, *_ in triples), ids_of([q for _, q, _ in triples], 64), ids_of([p[:1500] for *_, p in triples], 256)))
    held = [zlib.crc32(passage.encode()) % HELD_OUT == 0 for *_, passage in triples]
    return [row for row, out in zip(rows, held) if not out], [row for row, out in zip(rows, held) if out]


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--minutes', type=float, default=60)
    options.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    options.add_argument('--layers', default='0,5')
    options.add_argument('--inner', type=int, default=768)
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=4e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    train, held = load_pairs()
    teacher = BiEncoder()
    start_from(teacher, base_weights())
    teacher.eval().to(DEVICE)
    sources = [int(i) for i in options.layers.split(',')]
    model = narrowed(sources, options.inner, [passage for *_, passage in held])
    after = go_on_from_shipped(model, 'filter') if options.go_on else None
    model.embedding.thaw()
    by_source = {}
    for row in train:
        by_source.setdefault(row[0], []).append(row)
    shown = random.Random(SEED).sample(held, min(400, len(held)))
    wanted = [embed(teacher, texts, cap) for texts, cap in (([q for _, q, _ in shown], 64), ([p for *_, p in shown], 200))]

    def held_out(average):
        """Mean cosine to the teacher's embeddings (queries, passages); how often a query's own passage is nearest (ours, the teacher's)."""
        average.eval()
        ours = [embed(average, texts, cap) for texts, cap in (([q for _, q, _ in shown], 64), ([p for *_, p in shown], 200))]
        average.train()
        nearest = lambda q, d: round(float((q @ d.T).argmax(1).eq(torch.arange(len(q))).float().mean()), 4)
        return {'cosine': [round(float((a * b).sum(1).mean()), 4) for a, b in zip(ours, wanted)], 'own first': [nearest(*ours), nearest(*wanted)]}

    def step(rng):
        drawn_from = train
        if rng.random() < OF_ONE_SOURCE:
            source = rng.choice(train)[0]
            drawn_from = by_source[source] if len(by_source[source]) >= 2 * PAIRS else train
        part, cap = window(drawn_from, PAIRS, lambda row: len(row[2]), rng), rng.choice(CAPS)
        queries, passages = texts_of([q for _, q, _ in part], 64), texts_of([p for *_, p in part], cap)
        with torch.no_grad(), autocast():
            target_q, target_d = teacher(*queries).float(), teacher(*passages).float()
        with autocast():
            q, d = model(*queries).float(), model(*passages).float()
        near = 2 - (d * target_d).sum(1).mean() - (q * target_q).sum(1).mean()
        like = lambda a, b: SHARPNESS * a @ b.T
        # Passages too say what passages are like: documents asked with documents.
        alike = sum(F.kl_div(F.log_softmax(like(a, d), 1), F.softmax(like(b, target_d), 1), reduction='batchmean')
                    for a, b in ((q, target_q), (d, target_d)))
        return 3 * near + 2 * alike, len(part) * 2

    Training('distilled', model, groups_of(model, options.rate), held_out, {'sources': sources, 'inner': options.inner, 'teachers': ['all-MiniLM-L6-v2'], 'after': after}, clip=5.0).run(options.minutes, step)


if __name__ == '__main__':
    main()
