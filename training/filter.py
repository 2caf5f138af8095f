"""Trains the bi-encoder of the first stage: two narrow layers that see likeness as the teachers do together.

    python filter.py --minutes 45

Three losses: the embedding of each text is near all-MiniLM-L6-v2's, the cosines of all queries with all passages of a batch order
them as the four teachers' cosines do together, and those within a list as the teacher does. Resumable.
"""
import argparse

import numpy as np
import torch
import torch.nn.functional as F

from encode import load_lists
from loop import Training, autocast, go_on_from_shipped, window
from model import CLS, SEP, BiEncoder, narrow, start_from
from settings import CACHE, DEVICE, SEED, base_weights
from teacher import TEACHERS

LISTS, CANDIDATES, MORE_QUERIES = 8, 6, 16
CAPS = (96, 128, 200)
SOFTNESS = 0.3  # of what the teachers say together, as in their lists


def texts_of(rows, cap):
    rows = [[CLS, *row[:cap - 2], SEP] for row in rows]
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for r, row in enumerate(rows):
        ids[r, :len(row)] = torch.tensor(row)
    return ids.to(DEVICE), (ids > 0).long().to(DEVICE)


def narrowed(sources, inner, passages):
    """A bi-encoder of some of all-MiniLM-L6-v2's layers, each with its `inner` busiest neurons."""
    full = BiEncoder()
    start_from(full, base_weights())
    ids, mask = texts_of(passages[:64], 128)
    seen = {}
    hooks = [layer.up.register_forward_hook(lambda _, x, __, i=i: seen.__setitem__(i, x[0][mask.bool().cpu()])) for i, layer in enumerate(full.layers)]
    with torch.no_grad():
        full(ids.cpu(), mask.cpu())
    for hook in hooks:
        hook.remove()
    model = BiEncoder(len(sources), inner)
    model.embedding = full.embedding
    for k, i in enumerate(sources):
        model.layers[k] = narrow(full.layers[i], seen[i], inner)
    return model


def groups_of(model, rate):
    """Gates are left as they are: a bi-encoder has one segment."""
    table, gates = model.embedding.table, [layer.gate for layer in model.layers]
    rest = [p for p in model.parameters() if all(p is not q for q in (table, *gates))]
    return [{'params': rest, 'lr': rate}, {'params': [table], 'lr': rate * 0.7, 'weight_decay': 0.0}]


def embed(model, rows, cap, size=32):
    vectors = torch.zeros(len(rows), 384)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with torch.no_grad(), autocast():
        for a in range(0, len(order), size):
            part = order[a:a + size]
            vectors[part] = model(*texts_of([rows[i] for i in part], cap)).float().cpu()
    return vectors


def held_out(model, lists, passages, teachers):
    """Mean cosine to the large model's embeddings (queries, passages), rank correlation with the teacher, best alike."""
    model.eval()
    wanted = sorted({j for one in lists for j in one.picked})
    place = {j: r for r, j in enumerate(wanted)}
    documents = embed(model, [passages[j] for j in wanted], 200)
    asked = embed(model, [one.query for one in lists], 64)
    model.train()
    near_documents = (documents * teachers['D.minilm'][wanted]).sum(1).mean()
    near_queries = (asked * teachers['Q.minilm'][[one.row for one in lists]]).sum(1).mean()
    correlation, agreement = [], []
    for one, query in zip(lists, asked):
        ours, theirs = documents[[place[j] for j in one.picked]] @ query, torch.tensor(one.scores)
        places = torch.stack([ours.argsort().argsort(), theirs.argsort().argsort()]).float()
        correlation.append(float(torch.corrcoef(places)[0, 1]))
        agreement.append(float(ours.argmax() == theirs.argmax()))
    return {'cosine': [round(float(near_queries), 4), round(float(near_documents), 4)],
            'ranks': [round(float(np.mean(correlation)), 4), round(float(np.mean(agreement)), 4)]}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--name', default='filter')
    options.add_argument('--minutes', type=float, default=45)
    start = options.add_mutually_exclusive_group()
    start.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    start.add_argument('--start', help='begin with what distil.py trained: distilled')
    options.add_argument('--layers', default='0,5')
    options.add_argument('--inner', type=int, default=768)
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=5e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    passages, train, held = load_lists()
    teachers = {k: torch.from_numpy(v.astype(np.float32)) for k, v in np.load(CACHE / 'data/teachers.npz').items()}
    sources = [int(i) for i in options.layers.split(',')]
    model = narrowed(sources, options.inner, passages)
    after = go_on_from_shipped(model, 'filter') if options.go_on else None
    model.embedding.thaw()
    if options.start:
        begun = torch.load(CACHE / f'{options.start}.pt', map_location='cpu', weights_only=False)
        model.load_state_dict(begun['average'])
        after = {'texts': begun['seen'], 'teachers': begun['teachers'], **({'after': begun['after']} if begun['after'] else {})}
    scale = torch.nn.Parameter(torch.tensor(14.0, device=DEVICE))
    groups = [*groups_of(model, options.rate), {'params': [scale], 'lr': 1e-2, 'weight_decay': 0.0}]

    def step(rng):
        part, cap = window(train, LISTS, lambda one: len(passages[one.own]), rng), rng.choice(CAPS)
        chosen = [[0, *rng.sample(range(1, len(one.picked)), CANDIDATES - 1)] for one in part]
        documents = [one.picked[c] for one, places in zip(part, chosen) for c in places]
        asked = part + rng.sample(train, MORE_QUERIES)
        rows = [one.row for one in asked]
        taught = torch.tensor([[one.scores[c] for c in places] for one, places in zip(part, chosen)]).to(DEVICE)
        with autocast():
            d = model(*texts_of([passages[j] for j in documents], cap)).float()
            q = model(*texts_of([one.query for one in asked], 64)).float()
        target_d, target_q = teachers['D.minilm'][documents].to(DEVICE), teachers['Q.minilm'][rows].to(DEVICE)
        near = 2 - (d * target_d).sum(1).mean() - (q * target_q).sum(1).mean()
        together = SOFTNESS * sum(teachers[f'Q.{n}'][rows] @ teachers[f'D.{n}'][documents].T / s for n, s in zip(TEACHERS, teachers['spread']))
        scores = q @ d.T * scale
        alike = F.kl_div(F.log_softmax(scores, 1), F.softmax(together.to(DEVICE), 1), reduction='batchmean')
        own = torch.stack([scores[i, i * CANDIDATES:(i + 1) * CANDIDATES] for i in range(len(part))])
        listwise = F.kl_div(F.log_softmax(own, 1), F.softmax(taught, 1), reduction='batchmean')
        return 3 * near + 2 * alike + 2 * listwise, len(documents) + len(asked)

    Training(options.name, model, groups, lambda average: held_out(average, held, passages, teachers),
             {'sources': sources, 'inner': options.inner, 'after': after}, clip=5.0, extra=[scale]).run(options.minutes, step)


if __name__ == '__main__':
    main()
