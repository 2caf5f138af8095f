"""Trains the bi-encoder of the first stage: a few narrow layers that give all-MiniLM-L6-v2's embeddings.

    python filter.py --minutes 40

Two losses: the embedding of each text is the large model's, and the cosines within a list order it as the teacher does.
Resumable. The teacher's embeddings are those that teacher.py left in .cache/data/minilm.npz.
"""
import argparse
import copy
import json
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

from encode import load_lists, teacher_scores
from model import CLS, SEP, BiEncoder, narrow, start_from
from settings import CACHE, DEVICE, SEED, base_weights
from train import autocast

LISTS, CANDIDATES, MORE_QUERIES = 8, 6, 16
CAPS = (96, 128, 200)


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


def embed(model, rows, cap, size=32):
    vectors = torch.zeros(len(rows), 384)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with torch.no_grad(), autocast():
        for a in range(0, len(order), size):
            part = order[a:a + size]
            vectors[part] = model(*texts_of([rows[i] for i in part], cap)).float().cpu()
    return vectors


def held_out(model, lists, passages, queries, targets):
    """Mean cosine to the large model's embeddings (queries, passages), rank correlation with the teacher, best alike."""
    model.eval()
    wanted = sorted({j for _, _, picked, *_ in lists for j in picked})
    place = {j: r for r, j in enumerate(wanted)}
    documents = embed(model, [passages[j] for j in wanted], 200)
    asked = embed(model, [queries[own] for _, own, *_ in lists], 64)
    model.train()
    near_documents = (documents * targets['D'][wanted]).sum(1).mean()
    near_queries = (asked * targets['Q'][[own for _, own, *_ in lists]]).sum(1).mean()
    return {'cosine': [round(float(near_queries), 4), round(float(near_documents), 4)],
            'ranks': ranks(lists, [documents[[place[j] for j in l[2]]] @ q for l, q in zip(lists, asked)])}


def ranks(lists, scores):
    correlation, agreement = [], []
    for (_, _, _, minilm, bge, bm25, most), ours in zip(lists, scores):
        theirs = torch.tensor(teacher_scores(minilm, bge, bm25, most))
        places = torch.stack([torch.as_tensor(ours).argsort().argsort(), theirs.argsort().argsort()]).float()
        correlation.append(float(torch.corrcoef(places)[0, 1]))
        agreement.append(float(torch.as_tensor(ours).argmax() == theirs.argmax()))
    return [round(float(np.mean(correlation)), 4), round(float(np.mean(agreement)), 4)]


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--name', default='filter')
    options.add_argument('--minutes', type=float, default=40)
    options.add_argument('--layers', default='0,5')
    options.add_argument('--inner', type=int, default=768)
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=5e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    passages, queries, train, held = load_lists()
    targets = {k: torch.from_numpy(v) for k, v in np.load(CACHE / 'data/minilm.npz').items()}
    sources = [int(i) for i in options.layers.split(',')]
    model = narrowed(sources, options.inner, passages)
    model.embedding.thaw()
    model.to(DEVICE)
    scale = torch.nn.Parameter(torch.tensor(14.0, device=DEVICE))
    average = copy.deepcopy(model)
    table = [model.embedding.table]
    gates = [layer.gate for layer in model.layers]
    rest = [p for p in model.parameters() if all(p is not q for q in (*table, *gates))]
    optimiser = torch.optim.AdamW([{'params': rest, 'lr': options.rate}, {'params': table, 'lr': options.rate * 0.7, 'weight_decay': 0.0},
                                   {'params': [scale], 'lr': 1e-2, 'weight_decay': 0.0}], weight_decay=0.01, betas=(0.9, 0.98))
    rates = [g['lr'] for g in optimiser.param_groups]
    path, log = CACHE / f'{options.name}.pt', CACHE / f'{options.name}-training.jsonl'
    step, texts, spent = 0, 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=DEVICE, weights_only=False)
        model.load_state_dict(state['model'])
        average.load_state_dict(state['average'])
        optimiser.load_state_dict(state['optimiser'])
        step, texts, spent = state['step'], state['texts'], state['spent']

    def save():
        line = {'step': step, 'texts': texts, 'minutes': round(spent / 60, 1), 'held_out': held_out(average, held, passages, queries, targets)}
        print(json.dumps(line), flush=True)
        with open(log, 'a') as file:
            file.write(json.dumps(line) + '\n')
        partial = path.with_suffix('.partial')
        torch.save({'model': model.state_dict(), 'average': average.state_dict(), 'optimiser': optimiser.state_dict(), 'inner': options.inner,
                    'sources': sources, 'step': step, 'texts': texts, 'spent': spent}, partial)
        partial.replace(path)

    if step == 0:
        save()
    budget = options.minutes * 60
    while spent < budget:
        began = time.monotonic()
        rng = random.Random(SEED * 1_000_003 + step)
        rate = min(1, (step + 1) / 30) * max(0.02, 1 - spent / budget)
        for group, base in zip(optimiser.param_groups, rates):
            group['lr'] = base * rate
        window = sorted(rng.sample(train, LISTS * 8), key=lambda item: len(passages[item[1]]))
        at, cap = rng.randrange(8) * LISTS, rng.choice(CAPS)
        part = window[at:at + LISTS]
        chosen = [[0, *rng.sample(range(1, len(l[2])), CANDIDATES - 1)] for l in part]
        documents = [l[2][c] for l, picked in zip(part, chosen) for c in picked]
        asked = [l[1] for l in part] + rng.sample(range(len(queries)), MORE_QUERIES)
        teacher = torch.tensor([[teacher_scores(*l[3:])[c] for c in picked] for l, picked in zip(part, chosen)]).to(DEVICE)
        with autocast():
            d = model(*texts_of([passages[j] for j in documents], cap)).float()
            q = model(*texts_of([queries[j] for j in asked], 64)).float()
        target_d, target_q = targets['D'][documents].to(DEVICE), targets['Q'][asked].to(DEVICE)
        near = 2 - (d * target_d).sum(1).mean() - (q * target_q).sum(1).mean()
        # What each query is near to, among all texts of the batch, as the large model sees it.
        every, every_target = torch.cat([d, q]), torch.cat([target_d, target_q])
        itself = torch.eye(len(every), device=DEVICE) * 100
        alike = F.kl_div(F.log_softmax(every @ every.T * 20 - itself, 1), F.softmax(every_target @ every_target.T * 20 - itself, 1), reduction='batchmean')
        scores = torch.einsum('lh,lch->lc', q[:LISTS], d.view(LISTS, CANDIDATES, -1)) * scale
        listwise = -(F.softmax(teacher, 1) * F.log_softmax(scores, 1)).sum(1).mean()
        loss = 10 * near + 2 * alike + 0.5 * listwise
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step, texts = step + 1, texts + len(documents) + len(asked)
        keep = min(0.995, (step + 1) / (step + 20))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters()):
                a.lerp_(b, 1 - keep)
        spent += time.monotonic() - began
        if step % 20 == 0:
            print(f'{step} {spent:.0f}s {texts / spent:.1f} texts/s loss {loss.item():.3f} near {near.item():.4f} alike {alike.item():.4f} lists {listwise.item():.4f}', flush=True)
        if step % 200 == 0:
            save()
    save()


if __name__ == '__main__':
    main()
