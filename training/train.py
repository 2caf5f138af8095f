"""Trains a cross-encoder and its exits on the teacher's lists. Resumable: run it again after any end and it goes on.

    python train.py small --minutes 240
    python train.py nano --minutes 60 --layers 3 --heads 6 --inner 576 --exits 3 --start filter --rate 2e-4
"""
import argparse
import random

import torch
import torch.nn.functional as F

from encode import by_length, load_lists, on_device
from filter import trained_bi_encoder
from loop import Training, autocast, best_alike, go_on_from_shipped, rank_correlation
from model import HEADS, INNER, CrossEncoder, go_back, idf_table, start_from
from settings import CACHE, DEVICE, SEED, base_weights

CANDIDATES = 8
PARTS = 4  # of a step's pairs, by length
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


def begun_with(start, layers, exits):
    """What a training begins with: a trained bi-encoder by name, or all-MiniLM-L6-v2."""
    if start:
        return trained_bi_encoder(CACHE / f'{start}.pt')[0]
    base = CrossEncoder(layers, exits)
    start_from(base, base_weights())
    return base


def scores_of(model, lists, rows, read, cap, parts):
    """Every exit's scores [lists, candidates] of the lists `rows` with the passages `read` [lists, candidates]."""
    def run(*batch):
        with autocast():
            return [scores.float() for scores in model(*batch)]

    return [scores.view(read.shape) for scores in by_length(parts, run, *lists.pairs(rows, read, cap))]


def held_out(model, lists, rows):
    """Exit by exit: mean rank correlation with the teacher, how often the best candidate is the same, and correlation with the last exit."""
    model.eval()
    read, teacher = lists.draw(rows, CANDIDATES, random.Random(9))
    with torch.no_grad():
        outputs = scores_of(model, lists, rows, read, 160, max(1, len(rows) // 10))
    model.train()
    return {f'exit{e}': [rank_correlation(o, teacher), best_alike(o, teacher), rank_correlation(o, outputs[-1])] for e, o in zip(model.exits, outputs)}


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
    options.add_argument('--heads', type=int, default=HEADS)
    options.add_argument('--exits', default='2,4,6')
    options.add_argument('--start', help='name of a trained bi-encoder of the same shape; default all-MiniLM-L6-v2')
    options.add_argument('--go-on', action='store_true', help='begin with the weights that ship instead')
    options.add_argument('--back', type=float, default=0, help="share by which the layers first go back to all-MiniLM-L6-v2's")
    options.add_argument('--rate', type=float, default=1e-4, help='learning rate of the last layer')
    options.add_argument('--lists', type=int, default=256 if DEVICE == 'cuda' else 8, help='a step')
    options.add_argument('--threads', type=int, default=2)
    parser, options = options, options.parse_args()
    if options.back and not options.go_on:
        parser.error('--back: only weights that ship can go back; give --go-on too')
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    lists, train, held = load_lists()
    exits = tuple(int(e) for e in options.exits.split(','))
    model = CrossEncoder(options.layers, exits, options.inner, options.heads)
    after = None
    if options.go_on:
        after = go_on_from_shipped(model, options.name)
        if options.back:
            go_back(model, begun_with(None, options.layers, exits), options.back)
    else:
        model.load_state_dict(begun_with(options.start, options.layers, exits).state_dict(), strict=False)
    if not options.go_on:
        model.overlap.idf.data = idf_table(lists.passages)

    def step(rng):
        drawn = train[on_device(rng.sample(range(len(train)), options.lists))]
        read, teacher = lists.draw(drawn, CANDIDATES, rng)
        outputs = scores_of(model, lists, drawn, read, rng.choice(CAPS), PARTS)
        last = outputs[-1].detach()
        return list_loss(outputs[-1], teacher) + sum(EARLY * list_loss(o, teacher, last) for o in outputs[:-1]), teacher.numel()

    Training(options.name, model, groups_of(model, options.rate, options.go_on), lambda average: held_out(average, lists, held[:200]),
             {'exits': model.exits, 'layers': options.layers, 'inner': options.inner, 'heads': options.heads,
              'start': options.start, 'after': after}).run(options.minutes, step)


if __name__ == '__main__':
    main()
