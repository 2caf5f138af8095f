"""Trains the bi-encoder of the first stage: narrow layers that see likeness as the teachers do together.

    python filter.py --minutes 45

Three losses: the embedding of each text is near all-MiniLM-L6-v2's, the cosines of all queries with all passages of a batch order
them as the four teachers' cosines do together, and those within a list as the teacher does. Resumable.
"""
import argparse
import random

import numpy as np
import torch
import torch.nn.functional as F

from encode import by_length, load_lists, on_device, texts_of
from loop import Training, autocast, best_alike, go_on_from_shipped, rank_correlation
from model import HEADS, INNER, BiEncoder, narrow, start_from
from settings import CACHE, DEVICE, SEED, TEACHERS, base_weights

CANDIDATES = 6
MORE_QUERIES = 2  # times the lists
CAPS = (96, 128, 200)
PARTS = 2  # of a step's texts, by length
SOFTNESS = 0.3  # of what the teachers say together, as in their lists


def narrowed(sources, inner, heads, texts):
    """A bi-encoder of some of all-MiniLM-L6-v2's layers, each with its busiest heads and its `inner` busiest neurons."""
    full = BiEncoder().to(DEVICE)
    start_from(full, base_weights())
    full.to(DEVICE)
    ids, mask = texts_of(texts, torch.arange(min(64, len(texts)), device=DEVICE), 128)
    seen, contexts = {}, {}
    keep = lambda store, i: lambda _, inputs, __: store.__setitem__(i, inputs[0][mask.bool()].cpu())
    hooks = [hook for i, layer in enumerate(full.layers)
             for hook in (layer.up.register_forward_hook(keep(seen, i)), layer.out.register_forward_hook(keep(contexts, i)))]
    with torch.no_grad():
        full(ids, mask)
    for hook in hooks:
        hook.remove()
    full.cpu()
    model = BiEncoder(len(sources), inner, heads)
    model.embedding = full.embedding
    for k, i in enumerate(sources):
        model.layers[k] = narrow(full.layers[i], seen[i], contexts[i], inner, heads)
    return model


def trained_bi_encoder(path):
    """What filter.py or distil.py trained, its word embeddings rounded as they ship, and the checkpoint."""
    trained = torch.load(path, map_location='cpu', weights_only=False)
    model = BiEncoder(len(trained['sources']), trained.get('inner', INNER), trained.get('heads', HEADS))
    model.embedding.thaw()
    model.load_state_dict(trained['average'])
    model.embedding.freeze()
    return model, trained


def shape_options(options):
    options.add_argument('--layers', default='0,4,5', help="all-MiniLM-L6-v2's that it begins with")
    options.add_argument('--inner', type=int, default=576)
    options.add_argument('--heads', type=int, default=6)


def groups_of(model, rate):
    """Gates are left as they are: a bi-encoder has one segment."""
    table, gates = model.embedding.table, [layer.gate for layer in model.layers]
    rest = [p for p in model.parameters() if all(p is not q for q in (table, *gates))]
    return [{'params': rest, 'lr': rate}, {'params': [table], 'lr': rate * 0.7, 'weight_decay': 0.0}]


def embed(model, texts, rows, cap, parts):
    """Embeddings [rows, HIDDEN] of those of `texts`, in `parts` batches of like length."""
    def run(*batch):
        with autocast():
            return model(*batch).float()

    return by_length(parts, run, *texts_of(texts, rows, cap))


def held_out(model, lists, rows, teachers):
    """Mean cosine to the large model's embeddings (queries, passages), rank correlation with the teacher, best alike."""
    model.eval()
    read, teacher = lists.draw(rows, 8, random.Random(9))
    with torch.no_grad():
        q, d = embed(model, lists.queries, rows, 64, 10), embed(model, lists.passages, read.reshape(-1), 200, 40)
    model.train()
    near = lambda ours, theirs: round(float((ours * theirs).sum(1).mean()), 4)
    ours = torch.einsum('lh,lch->lc', q, d.view(*read.shape, -1))
    return {'cosine': [near(q, teachers['Q.minilm'][rows].float()), near(d, teachers['D.minilm'][read.reshape(-1)].float())],
            'ranks': [rank_correlation(ours, teacher), best_alike(ours, teacher)]}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--name', default='filter')
    options.add_argument('--minutes', type=float, default=45)
    start = options.add_mutually_exclusive_group()
    start.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    start.add_argument('--start', help='begin with what distil.py trained: distilled')
    shape_options(options)
    options.add_argument('--lists', type=int, default=128 if DEVICE == 'cuda' else 8, help='a step')
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=5e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    lists, train, held = load_lists()
    teachers = {k: torch.from_numpy(v).to(DEVICE) for k, v in np.load(CACHE / 'data/teachers.npz').items()}
    if options.start:
        model, begun = trained_bi_encoder(CACHE / f'{options.start}.pt')
        shape = {k: begun[k] for k in ('sources', 'inner', 'heads')}
        after = {'texts': begun['seen'], 'teachers': begun['teachers'], **({'after': begun['after']} if begun['after'] else {})}
    else:
        shape = {'sources': [int(i) for i in options.layers.split(',')], 'inner': options.inner, 'heads': options.heads}
        model = narrowed(*shape.values(), lists.passages)
        after = go_on_from_shipped(model, 'filter') if options.go_on else None
    model.embedding.thaw()
    scale = torch.nn.Parameter(torch.tensor(14.0, device=DEVICE))
    groups = [*groups_of(model, options.rate), {'params': [scale], 'lr': 1e-2, 'weight_decay': 0.0}]

    def step(rng):
        drawn = train[on_device(rng.sample(range(len(train)), options.lists))]
        read, taught = lists.draw(drawn, CANDIDATES, rng)
        documents = read.reshape(-1)
        asked = torch.cat([drawn, train[on_device(rng.choices(range(len(train)), k=MORE_QUERIES * options.lists))]])
        d, q = embed(model, lists.passages, documents, rng.choice(CAPS), PARTS), embed(model, lists.queries, asked, 64, PARTS)
        near = 2 - (d * teachers['D.minilm'][documents]).sum(1).mean() - (q * teachers['Q.minilm'][asked]).sum(1).mean()
        together = SOFTNESS * sum(teachers[f'Q.{n}'][asked].float() @ teachers[f'D.{n}'][documents].float().T / s for n, s in zip(TEACHERS, teachers['spread']))
        scores = q @ d.T * scale
        alike = F.kl_div(F.log_softmax(scores, 1), F.softmax(together, 1), reduction='batchmean')
        own = torch.arange(taught.numel(), device=DEVICE).view(taught.shape)
        listwise = F.kl_div(F.log_softmax(scores[:len(drawn)].gather(1, own), 1), F.softmax(taught, 1), reduction='batchmean')
        return 3 * near + 2 * alike + 2 * listwise, len(documents) + len(asked)

    Training(options.name, model, groups, lambda average: held_out(average, lists, held, teachers), {**shape, 'after': after},
             clip=5.0, extra=[scale]).run(options.minutes, step)


if __name__ == '__main__':
    main()
