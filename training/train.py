"""Trains a cross-encoder on the teacher's lists. Resumable: run it again after any end and it goes on.

    python train.py small --minutes 180
    python train.py nano --minutes 30 --layers 2 --inner 768 --exits 2 --start filter --rate 2e-4
"""
import argparse
import copy
import json
import random
import time

import torch
import torch.nn.functional as F

from encode import batch_of, load_lists, teacher_scores
from model import INNER, BiEncoder, CrossEncoder, idf_table, start_from
from settings import CACHE, DEVICE, SEED, base_weights

LISTS, CANDIDATES = 8, 8
CAPS = (96, 96, 128, 128, 176, 240)  # tokens a pair; long ones seldom, so that abstracts are not new to it
WEIGHTS = {1: 0.25, 2: 0.35, 3: 0.35, 4: 0.35, 6: 1.0}


def autocast():
    return torch.autocast(DEVICE, dtype=torch.bfloat16)


def groups_of(model, top):
    """Layer-wise learning rates: the top layers learn to look across, the bottom ones keep what they know."""
    groups = [{'params': list(model.heads.parameters()), 'lr': 6e-4},
              {'params': list(model.overlap.parameters()), 'lr': 5e-3, 'weight_decay': 0.0},
              {'params': [model.embedding.segment, *model.embedding.norm.parameters()], 'lr': 3e-5}]
    count = len(model.layers)
    for i, layer in enumerate(model.layers):
        rate = top * 0.8 ** (count - 1 - i)
        gates = [layer.gate]
        groups.append({'params': [p for p in layer.parameters() if p is not layer.gate], 'lr': rate})
        groups.append({'params': gates, 'lr': 2e-2, 'weight_decay': 0.0})
    return groups


def trained_bi_encoder(name):
    """What filter.py trained, its word embeddings rounded as they ship."""
    trained = torch.load(CACHE / f'{name}.pt', map_location='cpu', weights_only=False)
    model = BiEncoder(len(trained['sources']), trained['inner'])
    model.embedding.thaw()
    model.load_state_dict(trained['average'])
    model.embedding.freeze()
    return model


def held_out(model, lists, passages, queries):
    """Mean rank correlation with the teacher, exit by exit, and how often the best candidate is the same."""
    model.eval()
    rng = random.Random(9)
    correlation, agreement = [[] for _ in model.exits], [[] for _ in model.exits]
    with torch.no_grad(), autocast():
        for a in range(0, len(lists), 10):
            part = lists[a:a + 10]
            ids, mask, types, teacher = batch_of(part, passages, queries, 10, 160, rng)
            for k, scores in enumerate(model(ids, mask, types)):
                s = scores.float().view(len(part), -1)
                for ours, theirs in zip(s, teacher):
                    ranks = torch.stack([ours.argsort().argsort(), theirs.argsort().argsort()]).float()
                    correlation[k].append(float(torch.corrcoef(ranks)[0, 1]))
                    agreement[k].append(float(ours.argmax() == theirs.argmax()))
    model.train()
    mean = lambda values: round(sum(values) / len(values), 4)
    return {f'exit{e}': [mean(c), mean(a)] for e, c, a in zip(model.exits, correlation, agreement)}


def list_loss(scores, teacher, last=None):
    """Listwise cross-entropy against the softened teacher, plus the squared error of the margins."""
    hard = torch.zeros_like(teacher)
    hard[:, 0] = 1
    target = 0.1 * hard + 0.9 * F.softmax(teacher, 1)
    centred = (scores - scores.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    loss = -(target * F.log_softmax(scores, 1)).sum(1).mean() + 0.08 * centred.square().mean()
    if last is not None:
        loss = loss + 0.15 * F.kl_div(F.log_softmax(scores, 1), F.softmax(last, 1), reduction='batchmean')
    return loss


def main():
    options = argparse.ArgumentParser()
    options.add_argument('name')
    options.add_argument('--minutes', type=float, default=180)
    options.add_argument('--layers', type=int, default=6)
    options.add_argument('--inner', type=int, default=INNER)
    options.add_argument('--exits', default='1,2,4,6')
    options.add_argument('--start', help='name of a trained bi-encoder of the same shape; default all-MiniLM-L6-v2')
    options.add_argument('--rate', type=float, default=8e-5, help='learning rate of the last layer; 0 trains heads and overlap alone')
    options.add_argument('--threads', type=int, default=2)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(SEED)
    torch.manual_seed(SEED)
    passages, queries, train, held = load_lists()
    model = CrossEncoder(options.layers, tuple(int(e) for e in options.exits.split(',')), options.inner)
    if options.start:
        model.load_state_dict(trained_bi_encoder(options.start).state_dict(), strict=False)
    else:
        start_from(model, base_weights())
    model.overlap.idf.data = idf_table(passages)
    model.to(DEVICE)
    for p in (*model.layers.parameters(), *model.embedding.parameters()) if options.rate == 0 else ():
        p.requires_grad_(False)
    average = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(groups_of(model, options.rate), weight_decay=0.01, betas=(0.9, 0.98))
    rates = [g['lr'] for g in optimiser.param_groups]
    path, log = CACHE / f'{options.name}.pt', CACHE / f'{options.name}-training.jsonl'
    step, pairs, spent = 0, 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=DEVICE, weights_only=False)
        model.load_state_dict(state['model'])
        average.load_state_dict(state['average'])
        optimiser.load_state_dict(state['optimiser'])
        step, pairs, spent = state['step'], state['pairs'], state['spent']

    def save():
        figures = held_out(average, held, passages, queries)
        line = {'step': step, 'pairs': pairs, 'minutes': round(spent / 60, 1), 'held_out': figures}
        print(json.dumps(line), flush=True)
        with open(log, 'a') as file:
            file.write(json.dumps(line) + '\n')
        partial = path.with_suffix('.partial')
        torch.save({'model': model.state_dict(), 'average': average.state_dict(), 'optimiser': optimiser.state_dict(),
                    'step': step, 'pairs': pairs, 'spent': spent, 'exits': model.exits, 'layers': options.layers, 'inner': options.inner}, partial)
        partial.replace(path)

    if step == 0:
        save()
    budget = options.minutes * 60
    while spent < budget:
        began = time.monotonic()
        rng = random.Random(SEED * 1_000_003 + step)
        rate = min(1, (step + 1) / 40) * max(0.02, 1 - spent / budget)
        for group, base in zip(optimiser.param_groups, rates):
            group['lr'] = base * rate
        # Lists of like length together: a window of eight batches, sorted.
        window = rng.sample(train, LISTS * 8)
        window.sort(key=lambda item: len(passages[item[1]]))
        at = rng.randrange(8) * LISTS
        ids, mask, types, teacher = batch_of(window[at:at + LISTS], passages, queries, CANDIDATES, rng.choice(CAPS), rng)
        with autocast():
            outputs = model(ids, mask, types)
        outputs = [o.float().view(teacher.shape) for o in outputs]
        last = outputs[-1].detach()
        loss = sum(WEIGHTS.get(e, 0.35) * list_loss(o, teacher, None if e == model.exits[-1] else last)
                   for e, o in zip(model.exits, outputs))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, pairs = step + 1, pairs + ids.shape[0]
        keep = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters()):
                a.lerp_(b, 1 - keep)
        spent += time.monotonic() - began
        if step % 20 == 0:
            print(f'{step} {spent:.0f}s {pairs / spent:.1f} pairs/s loss {loss.item():.3f}', flush=True)
        if step % 200 == 0:
            save()
    save()


if __name__ == '__main__':
    main()
