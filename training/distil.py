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

from encode import LONGEST, LONGEST_QUERY, Texts, on_device
from filter import PARTS, embed, groups_of, narrowed, shape_options
from loop import Training, go_on_from_shipped
from model import BiEncoder, start_from
from settings import CACHE, DEVICE, SEED, base_weights

CAPS = (96, 128, 200)
SHARPNESS = 20.0  # of cosines: how near passages must be to count in what a query is like
OF_ONE_SOURCE = 0.7  # of the steps: passages of one source are harder to tell apart
HELD_OUT = 50  # one in so many
SHOWN_PARTS = 13  # of the held-out ones that figures are taken from


def load_pairs():
    """(source of each pair, queries, passages, which pairs train, which are held out)."""
    triples = json.loads((CACHE / 'data/pairs.json').read_text())
    held = [zlib.crc32(passage.encode()) % HELD_OUT == 0 for *_, passage in triples]
    return ([source for source, *_ in triples], Texts([q for _, q, _ in triples], LONGEST_QUERY), Texts([p[:1500] for *_, p in triples], LONGEST),
            [i for i, out in enumerate(held) if not out], [i for i, out in enumerate(held) if out])


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--minutes', type=float, default=60)
    options.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    shape_options(options)
    options.add_argument('--pairs', type=int, default=512 if DEVICE == 'cuda' else 48, help='a step: so many queries, and as many passages')
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=4e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    sources, queries, passages, train, held = load_pairs()
    teacher = BiEncoder()
    start_from(teacher, base_weights())
    teacher.eval().to(DEVICE)
    shape = {'sources': [int(i) for i in options.layers.split(',')], 'inner': options.inner, 'heads': options.heads}
    model = narrowed(*shape.values(), passages)
    after = go_on_from_shipped(model, 'filter') if options.go_on else None
    model.embedding.thaw()
    by_source = {}
    for row in train:
        by_source.setdefault(sources[row], []).append(row)
    shown = on_device(random.Random(SEED).sample(held, min(400, len(held))))
    both = lambda encoder, rows, cap, parts: (embed(encoder, queries, rows, 64, parts), embed(encoder, passages, rows, cap, parts))
    with torch.no_grad():
        wanted = both(teacher, shown, 200, SHOWN_PARTS)

    def held_out(average):
        """Mean cosine to the teacher's embeddings (queries, passages); how often a query's own passage is nearest (ours, the teacher's)."""
        average.eval()
        with torch.no_grad():
            ours = both(average, shown, 200, SHOWN_PARTS)
        average.train()
        nearest = lambda q, d: round(float((q @ d.T).argmax(1).eq(torch.arange(len(q), device=DEVICE)).float().mean()), 4)
        return {'cosine': [round(float((a * b).sum(1).mean()), 4) for a, b in zip(ours, wanted)], 'own first': [nearest(*ours), nearest(*wanted)]}

    def step(rng):
        drawn_from = train
        if rng.random() < OF_ONE_SOURCE:
            source = sources[rng.choice(train)]
            drawn_from = by_source[source] if len(by_source[source]) >= 2 * options.pairs else train
        rows, cap = on_device(rng.sample(drawn_from, options.pairs)), rng.choice(CAPS)
        with torch.no_grad():
            target_q, target_d = both(teacher, rows, cap, PARTS)
        q, d = both(model, rows, cap, PARTS)
        near = 2 - (d * target_d).sum(1).mean() - (q * target_q).sum(1).mean()
        like = lambda a, b: SHARPNESS * a @ b.T
        # Passages too say what passages are like: documents asked with documents.
        alike = sum(F.kl_div(F.log_softmax(like(a, d), 1), F.softmax(like(b, target_d), 1), reduction='batchmean')
                    for a, b in ((q, target_q), (d, target_d)))
        return 3 * near + 2 * alike, len(rows) * 2

    Training('distilled', model, groups_of(model, options.rate), held_out, {**shape, 'teachers': ['all-MiniLM-L6-v2'], 'after': after}, clip=5.0).run(options.minutes, step)


if __name__ == '__main__':
    main()
