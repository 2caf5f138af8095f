"""Trains the exits of a cross-encoder, whose layers stay as they are: a narrow layer of its own and a head for each.

    python exits.py --minutes 30

The hidden states after two layers are made for the layers above, not for a score: a head alone ranks worse than BM25 there. Each
exit therefore gets a branch, one layer with half the inner neurons that begins as the model's last. Writes .cache/small-exits.pt, which
ship.py takes if it is there. Resumable, as train.py; a model trained further keeps its exits, and they can be trained further too.
"""
import argparse
import copy
import json
import random
import time

import torch

from encode import batch_of, load_lists
from model import CrossEncoder, narrow
from settings import CACHE, DEVICE, SEED
from train import CANDIDATES, CAPS, LISTS, autocast, held_out, list_loss

BRANCH = 768


def with_branches(trained, exits, branch, passages, queries, lists):
    """The trained model with other exits; each head begins as the last one's, each branch as the last layer's busiest neurons."""
    state = trained['average']
    whole = CrossEncoder(trained['layers'], tuple(trained['exits']))
    whole.load_state_dict(state)
    model = CrossEncoder(trained['layers'], exits, branch=branch)
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith('heads.')}, strict=False)
    seen = []
    hook = whole.layers[-1].up.register_forward_hook(lambda _, x, __: seen.append(x[0][mask.bool()]))
    with torch.no_grad():
        ids, mask, types, _ = (t.cpu() for t in batch_of(lists[:6], passages, queries, 6, 128, random.Random(0)))
        whole(ids, mask, types)
    hook.remove()
    for head in model.heads:
        head.load_state_dict(whole.heads[-1].state_dict())
    for layer in model.branches:
        layer.load_state_dict({**narrow(whole.layers[-1], seen[0], branch).state_dict(), 'gate': whole.layers[-1].gate.data.clone()})
    return model


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--name', default='small')
    options.add_argument('--exits', default='2,4', help='all but the last')
    options.add_argument('--minutes', type=float, default=30)
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--rate', type=float, default=3e-4)
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    passages, queries, train, held = load_lists()
    trained = torch.load(CACHE / f'{options.name}.pt', map_location='cpu', weights_only=False)
    exits = (*(int(e) for e in options.exits.split(',')), trained['layers'])
    model = with_branches(trained, exits, BRANCH, passages, queries, train).to(DEVICE)
    path, log = CACHE / f'{options.name}-exits.pt', CACHE / f'{options.name}-exits-training.jsonl'
    step, pairs, spent = 0, 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=DEVICE, weights_only=False)
        model.load_state_dict(state['exits_state'], strict=False)
        step, pairs, spent = state['step'], state['pairs'], state['spent']
    ours = lambda name: name.startswith('branches.') or (name.startswith('heads.') and not name.startswith(f'heads.{len(exits) - 1}.'))
    own = {name: p for name, p in model.named_parameters() if ours(name)}
    for name, p in model.named_parameters():
        p.requires_grad_(name in own)
    average = copy.deepcopy(model)
    kept = dict(average.named_parameters())
    gates = [p for name, p in own.items() if name.endswith('.gate')]
    optimiser = torch.optim.AdamW([{'params': [p for name, p in own.items() if not name.endswith('.gate')], 'lr': options.rate},
                                   {'params': gates, 'lr': 2e-2, 'weight_decay': 0.0}], weight_decay=0.01, betas=(0.9, 0.98))
    rates = [g['lr'] for g in optimiser.param_groups]

    def save():
        line = {'step': step, 'pairs': pairs, 'minutes': round(spent / 60, 1), 'held_out': held_out(average, held[:60], passages, queries)}
        print(json.dumps(line), flush=True)
        with open(log, 'a') as file:
            file.write(json.dumps(line) + '\n')
        partial = path.with_suffix('.partial')
        torch.save({'exits_state': {name: kept[name].data for name in own}, 'exits': exits, 'branch': BRANCH,
                    'step': step, 'pairs': pairs, 'spent': spent}, partial)
        partial.replace(path)

    if step == 0:
        save()
    budget = options.minutes * 60
    while spent < budget:
        began = time.monotonic()
        rng = random.Random(SEED * 1_000_003 + 500_000 + step)
        rate = min(1, (step + 1) / 20) * max(0.02, 1 - spent / budget)
        for group, base in zip(optimiser.param_groups, rates):
            group['lr'] = base * rate
        window = sorted(rng.sample(train, LISTS * 8), key=lambda item: len(passages[item[1]]))
        at = rng.randrange(8) * LISTS
        ids, mask, types, teacher = batch_of(window[at:at + LISTS], passages, queries, CANDIDATES, rng.choice(CAPS), rng)
        with autocast():
            outputs = model(ids, mask, types, stop=exits[-2])
        loss = sum(list_loss(o.float().view(teacher.shape), teacher) for o in outputs)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.values(), 2.0)
        optimiser.step()
        step, pairs = step + 1, pairs + ids.shape[0]
        keep = min(0.995, (step + 1) / (step + 20))
        with torch.no_grad():
            for name, p in own.items():
                kept[name].lerp_(p, 1 - keep)
        spent += time.monotonic() - began
        if step % 20 == 0:
            print(f'{step} {spent:.0f}s {pairs / spent:.1f} pairs/s loss {loss.item():.3f}', flush=True)
        if step % 200 == 0:
            save()
    save()


if __name__ == '__main__':
    main()
