"""Trains a cross-encoder and its exits on the teacher's lists. Resumable: run it again after any end and it goes on.

    python train.py small --minutes 240
    python train.py nano --minutes 60 --layers 2 --inner 768 --exits 2 --start filter --rate 2e-4
"""
import argparse
import random

import torch
import torch.nn.functional as F

from encode import batch_of, load_lists
from loop import Training, autocast, go_on_from_shipped, window
from model import INNER, BiEncoder, CrossEncoder, idf_table, start_from
from settings import CACHE, SEED, base_weights

LISTS, CANDIDATES = 8, 8
CAPS = (96, 96, 128, 128, 176, 240)  # tokens a pair; long ones seldom, so that abstracts are not new to it
EARLY = 0.3  # what an early exit's loss counts
GO_ON = 0.2  # of the rates of all but layers and early exits, for weights that are trained already


def groups_of(model, top, go_on):
    """Layer-wise learning rates: the top layers learn to look across, the bottom ones keep what they know."""
    rest = GO_ON if go_on else 1
    groups = [{'params': list(model.heads[:-1].parameters()), 'lr': 6e-4},
              {'params': list(model.heads[-1].parameters()), 'lr': rest * 6e-4},
              {'params': list(model.overlap.parameters()), 'lr': rest * 5e-3, 'weight_decay': 0.0},
              {'params': [model.embedding.segment, *model.embedding.norm.parameters()], 'lr': rest * 3e-5}]
    count = len(model.layers)
    for i, layer in enumerate(model.layers):
        gates = [layer.gate]
        groups.append({'params': [p for p in layer.parameters() if p is not layer.gate], 'lr': top * 0.85 ** (count - 1 - i)})
        groups.append({'params': gates, 'lr': rest * 2e-2, 'weight_decay': 0.0})
    return groups


def trained_bi_encoder(name):
    """What filter.py trained, its word embeddings rounded as they ship."""
    trained = torch.load(CACHE / f'{name}.pt', map_location='cpu', weights_only=False)
    model = BiEncoder(len(trained['sources']), trained['inner'])
    model.embedding.thaw()
    model.load_state_dict(trained['average'])
    model.embedding.freeze()
    return model


def go_back(model, share):
    """Moves the layers by a share towards all-MiniLM-L6-v2's: what was learned on one domain holds better on others so (WiSE-FT, Wortsman 2022)."""
    base = CrossEncoder(len(model.layers), model.exits)
    start_from(base, base_weights())
    with torch.no_grad():
        for layer, before in zip(model.layers, base.layers):
            for (name, own), old in zip(layer.named_parameters(), before.parameters()):
                if name != 'gate':
                    own.lerp_(old, share)


def held_out(model, lists, passages):
    """Exit by exit: mean rank correlation with the teacher, how often the best candidate is the same, and with the last exit."""
    model.eval()
    rng, found = random.Random(9), [[] for _ in model.exits]
    places = lambda scores: scores.argsort().argsort().float()
    with torch.no_grad(), autocast():
        for a in range(0, len(lists), 10):
            part = lists[a:a + 10]
            ids, mask, types, teacher = batch_of(part, passages, 10, 160, rng)
            outputs = [scores.float().view(len(part), -1) for scores in model(ids, mask, types)]
            for k, scores in enumerate(outputs):
                for ours, theirs, last in zip(scores, teacher, outputs[-1]):
                    alike = lambda other: float(torch.corrcoef(torch.stack([places(ours), places(other)]))[0, 1])
                    found[k].append((alike(theirs), float(ours.argmax() == theirs.argmax()), alike(last)))
    model.train()
    return {f'exit{e}': [round(sum(v) / len(v), 4) for v in zip(*rows)] for e, rows in zip(model.exits, found)}


def list_loss(scores, teacher, last=None):
    """Listwise cross-entropy against the softened teacher, plus the squared error of the margins."""
    hard = torch.zeros_like(teacher)
    hard[:, 0] = 1
    target = 0.1 * hard + 0.9 * F.softmax(teacher, 1)
    centred = (scores - scores.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    loss = -(target * F.log_softmax(scores, 1)).sum(1).mean() + 0.08 * centred.square().mean()
    if last is not None:
        loss = loss + 0.5 * F.kl_div(F.log_softmax(scores, 1), F.softmax(last, 1), reduction='batchmean')
    return loss


def main():
    options = argparse.ArgumentParser()
    options.add_argument('name')
    options.add_argument('--minutes', type=float, default=240)
    options.add_argument('--layers', type=int, default=6)
    options.add_argument('--inner', type=int, default=INNER)
    options.add_argument('--exits', default='2,4,6')
    options.add_argument('--start', help='name of a trained bi-encoder of the same shape; default all-MiniLM-L6-v2')
    options.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    options.add_argument('--back', type=float, default=0, help="share by which the layers first go back to all-MiniLM-L6-v2's")
    options.add_argument('--rate', type=float, default=1e-4, help='learning rate of the last layer')
    options.add_argument('--threads', type=int, default=2)
    parser, options = options, options.parse_args()
    if options.back and not options.go_on:
        parser.error('--back: only weights that ship can go back; give --go-on too')
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    passages, train, held = load_lists()
    model = CrossEncoder(options.layers, tuple(int(e) for e in options.exits.split(',')), options.inner)
    after = None
    if options.go_on:
        after = go_on_from_shipped(model, options.name)
        if options.back:
            go_back(model, options.back)
    elif options.start:
        model.load_state_dict(trained_bi_encoder(options.start).state_dict(), strict=False)
    else:
        start_from(model, base_weights())
    if not options.go_on:
        model.overlap.idf.data = idf_table(passages)

    def step(rng):
        part = window(train, LISTS, lambda one: len(passages[one.own]), rng)
        ids, mask, types, teacher = batch_of(part, passages, CANDIDATES, rng.choice(CAPS), rng)
        with autocast():
            outputs = [o.float().view(teacher.shape) for o in model(ids, mask, types)]
        last = outputs[-1].detach()
        return list_loss(outputs[-1], teacher) + sum(EARLY * list_loss(o, teacher, last) for o in outputs[:-1]), ids.shape[0]

    Training(options.name, model, groups_of(model, options.rate, options.go_on), lambda average: held_out(average, held[:200], passages),
             {'exits': model.exits, 'layers': options.layers, 'inner': options.inner, 'after': after}).run(options.minutes, step)


if __name__ == '__main__':
    main()
