"""Trains a cross-encoder of any shape on what rankmill-small says and how it comes to it: scores, and hidden states layer by layer.

    python student.py nano-3 --shape 3x6x576 --start small --minutes 1 --leave man,perl,git
    python student.py small-next --shape 6x12x1536 --start small --exits 2,4,6 --trust 0.5 --hard --minutes 3     # one round of self-training
    python student.py --figures small --leave man,perl,git                                                      # what there is to compare with
    python student.py --unpack .cache/nano-3.half.pt                                                             # -> .cache/nano-3.pt, for ship.py

A shape is layers x heads x inner neurons. `--start small` takes evenly spread layers of rankmill-small, each with the heads and
neurons that contribute most; `first` its first layers so, with the head of its exit there; `nano` what ships; `filter` the bi-encoder
of `filter.py` (`.cache/filter.pt`, else the one that ships, where the shape is its); `random` nothing. `--trust`: what small counts
beside the ensemble of teachers in the targets; 1 where the lists have no scores of theirs (candidates.py). `--targets`: small's scores
as `targets.py` has written them, for a CPU, where small's pass would take most of the time. `--leave`: sources that are not trained on;
figures are theirs, with intervals by bootstrap over the lists. Resumable, as all trainings; each run adds a line to .cache/students.jsonl
and leaves .cache/NAME.half.pt, 16-bit and without the table of words, which what it started from has as well: a tenth of the checkpoint.
"""
import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from encode import by_length, load_lists, on_device
from filter import trained_bi_encoder
from loop import Training, autocast, go_on_from_shipped, rank_correlation
from model import CrossEncoder, narrow
from settings import CACHE, DEVICE, SEED
from targets import CAP, load_targets
from train import CAPS, EARLY, PARTS, groups_of, list_loss

CANDIDATES = 8
DRAWN = 12  # of which, with --hard, those are kept on which small and its targets differ most
SPREAD = 3.0  # of targets within a list: small's scores are brought to it, the ensemble's are near it
WRITTEN_CAPS = (96, 128, CAP, CAP)  # as CAPS; what was written was read up to CAP
TABLE = ('embedding.words', 'embedding.scales')


def shipped_small():
    model = CrossEncoder()
    go_on_from_shipped(model, 'small')
    return model.eval().to(DEVICE)


def states_of(model, lists, rows, read, cap, parts, wanted=()):
    """(Every exit's scores [lists, candidates], hidden states of the layers `wanted`, in parts, and the masks of these parts)."""
    kept, masks = {i: [] for i in wanted}, []
    hooks = [model.layers[i].register_forward_hook(lambda _, __, out, i=i: kept[i].append(out)) for i in wanted]

    def run(ids, mask, types):
        masks.append(mask)
        with autocast():
            return [scores.float() for scores in model(ids, mask, types)]

    scores = [s.view(read.shape) for s in by_length(parts, run, *lists.pairs(rows, read, cap))]
    for hook in hooks:
        hook.remove()
    return scores, [kept[i] for i in wanted], masks


def hidden_loss(ours, theirs, masks):
    """Mean squared distance of tokens, each of length 1: directions carry what is said, and lengths are the norm's."""
    losses = [((F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1)).square().sum(-1) * mask).sum() / mask.sum()
              for a_parts, b_parts in zip(ours, theirs) for a, b, mask in zip(a_parts, b_parts, masks)]
    return torch.stack(losses).mean()


def spread_out(layers, of=6):
    """Which of the large model's layers the small one's begin with, and are held to: evenly spread, the last one among them."""
    return [round((i + 1) * of / layers) - 1 for i in range(layers)]


def student_of(start, shape, exits, small, lists, rows):
    layers, heads, inner = shape
    model = CrossEncoder(layers, exits, inner, heads)
    if start == 'nano':
        go_on_from_shipped(model, 'nano')
        return model
    own, theirs = model.state_dict(), small.state_dict()
    # The head that it begins with: small's last, or that of the exit after as many layers.
    if start == 'first' and layers not in small.exits:
        raise SystemExit(f'--start first: rankmill-small has exits after {", ".join(map(str, small.exits))} layers, not after {layers}')
    k = small.exits.index(layers) if start == 'first' else len(small.heads) - 1
    last = f'heads.{k}.'
    shared = {k: v for k, v in theirs.items() if k.startswith(('embedding.', 'overlap.'))}
    shared |= {k.replace(last, f'heads.{len(exits) - 1}.'): v for k, v in theirs.items() if k.startswith(last)}
    shared = {k: v for k, v in shared.items() if k in own}
    if start == 'small' and (layers, heads, inner) == (6, 12, 1536):
        shared |= {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict({k: v.cpu() for k, v in shared.items()}, strict=False)
    if start == 'filter':
        model.load_state_dict(filter_state(layers, heads, inner), strict=False)
    elif start in ('small', 'first') and (layers, heads, inner) != (6, 12, 1536):
        inputs, contexts = seen_by(small, lists, rows)
        for k, i in enumerate(spread_out(layers) if start == 'small' else range(layers)):
            model.layers[k] = narrow(small.layers[i].cpu(), inputs[i], contexts[i], inner, heads)
        small.to(DEVICE)
    return model


def filter_state(layers, heads, inner):
    if (CACHE / 'filter.pt').exists():
        return trained_bi_encoder(CACHE / 'filter.pt')[0].state_dict()
    model = CrossEncoder(layers, (layers,), inner, heads)
    try:
        go_on_from_shipped(model, 'filter')
    except RuntimeError:
        raise SystemExit(f'--start filter: rankmill-filter is not of the shape {layers}x{heads}x{inner}') from None
    return {k: v for k, v in model.state_dict().items() if k.startswith(('embedding.', 'layers.')) and not k.endswith('.gate')}


def seen_by(small, lists, rows):
    """What each layer's feed-forward and its heads' outputs get, [tokens, channels], on some pairs."""
    inputs, contexts = {}, {}
    hooks = [h for i, layer in enumerate(small.layers)
             for h in (layer.up.register_forward_hook(lambda _, given, __, i=i: inputs.__setitem__(i, given[0].flatten(0, 1).float().cpu())),
                       layer.out.register_forward_hook(lambda _, given, __, i=i: contexts.__setitem__(i, given[0].flatten(0, 1).float().cpu())))]
    rows = rows[:16]
    with torch.no_grad():
        small(*lists.pairs(rows, lists.draw(rows, 4, random.Random(3))[0], 128))
    for hook in hooks:
        hook.remove()
    return inputs, contexts


def in_spread(scores):
    """Scores of each list, centred and brought to one spread."""
    centred = scores - scores.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True).clamp_min(1e-3) * SPREAD


def interval(values, rng=None):
    """Mean, and the 95 % interval of means over lists drawn again a thousand times."""
    values, rng = np.asarray(values, float), rng or np.random.default_rng(SEED)
    means = values[rng.integers(0, len(values), (1000, len(values)))].mean(1)
    return [round(float(v), 4) for v in (values.mean(), *np.percentile(means, (2.5, 97.5)))]


def gains_of(scores):
    """nDCG@10 of each list, [lists]: the own passage, the first, is the relevant one."""
    place = (scores[:, 1:] >= scores[:, :1]).sum(1)
    return torch.where(place < 10, 1 / torch.log2(place.float() + 2), 0.0).cpu().numpy()


def figures(model, small, lists, rows):
    """Of each exit nDCG@10 with its interval, the difference to small's (paired, with its interval), and the rank correlation with it."""
    model.eval()
    count = min(int(lists.counts[rows].min()), 13)
    read, _ = lists.draw(rows, count, random.Random(9))
    found = {}
    with torch.no_grad():
        scored = [torch.cat(parts) for parts in zip(*(states_of(model, lists, rows[a:a + 50], read[a:a + 50], 200, 4)[0] for a in range(0, len(rows), 50)))]
        wanted = torch.cat([states_of(small, lists, rows[a:a + 50], read[a:a + 50], 200, 4)[0][-1] for a in range(0, len(rows), 50)])
    model.train()
    for exit_, scores in zip(model.exits, scored):
        found[f'exit{exit_}'] = {'ndcg': interval(gains_of(scores)), 'to small': interval(gains_of(scores) - gains_of(wanted)), 'ranks': rank_correlation(scores, wanted)}
    return found


def by_source(train, held, leave, most):
    """(Training lists without the sources `leave`, the lists of these sources or, where none are named, the usual held-out ones)."""
    if not leave:
        return train, held[:most]
    sources = [source.split('-')[0] for source, *_ in json.loads((CACHE / 'data/lists.json').read_text())]
    unknown = [name for name in leave if name not in sources]
    if unknown:
        raise SystemExit(f'--leave: no such source: {", ".join(unknown)}; there are {", ".join(sorted(set(sources)))}')
    left = [i for i, source in enumerate(sources) if source in leave]
    random.Random(SEED).shuffle(left)
    return [i for i in train.tolist() if sources[i] not in leave], left[:most]


def pack(path, about):
    state = torch.load(path, map_location='cpu', weights_only=False)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state['average'].items() if k not in TABLE}
    torch.save({**{k: state[k] for k in ('step', 'seen', 'exits', 'layers', 'inner', 'heads', 'start', 'after')}, **about, 'average': half}, path.with_suffix('.half.pt'))


def unpack(path):
    """A checkpoint that ship.py takes, the table of words put back from what the student began with."""
    state = torch.load(path, map_location='cpu', weights_only=False)
    shape = [state[k] for k in ('layers', 'heads', 'inner')]
    if state['start'] == 'filter':
        begun = filter_state(*shape)
    elif state['start'] == 'nano':
        begun = student_of('nano', shape, state['exits'], None, None, None).state_dict()
    else:
        begun = shipped_small().cpu().state_dict()
    table = {k: v for k, v in begun.items() if k in TABLE}
    state['average'] = {**table, **{k: v.float() if v.is_floating_point() else v for k, v in state['average'].items()}}
    target = path.with_name(path.name.replace('.half', ''))
    torch.save(state, target)
    print(target)


def main():
    options = argparse.ArgumentParser()
    options.add_argument('name', nargs='?')
    options.add_argument('--shape', default='3x6x576')
    options.add_argument('--exits', help='default: the last layer alone')
    options.add_argument('--start', choices=('small', 'first', 'nano', 'filter', 'random'), default='small')
    options.add_argument('--minutes', type=float, default=1)
    options.add_argument('--trust', type=float, default=1.0)
    options.add_argument('--hidden', type=float, default=1.0, help='what the distance to hidden states counts; 0: scores alone')
    options.add_argument('--hard', action='store_true')
    options.add_argument('--targets', action='store_true')
    options.add_argument('--compile', action='store_true', help='nearly twice as fast on a CPU; needs a C++ compiler; takes a minute or two')
    options.add_argument('--leave', default='')
    options.add_argument('--rate', type=float, default=5e-4)
    options.add_argument('--lists', type=int, default=128 if DEVICE == 'cuda' else 4, help='a step')
    options.add_argument('--held', type=int, default=400, help='lists that figures are taken from')
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--unpack', type=Path)
    options.add_argument('--figures', action='store_true', help='of what ships as NAME, without training')
    parser, options = options, options.parse_args()
    if options.hidden and (options.targets or options.compile):
        parser.error('--hidden: hidden states are at hand only where small runs too, and not compiled; give --hidden 0')
    if options.targets and (options.hard or options.trust != 1):
        parser.error('--targets: what is written is small\'s score alone; leave out --hard and --trust')
    if options.unpack:
        return unpack(options.unpack)
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    lists, train, held = load_lists()
    leave = [name for name in options.leave.split(',') if name]
    train, held = (on_device(list(rows)) for rows in by_source(train, held, leave, options.held))
    train = train[lists.counts[train] >= DRAWN]
    held = held[lists.counts[held] >= CANDIDATES]
    small = shipped_small()
    if options.figures:
        print(json.dumps({'name': options.name, 'left out': leave, 'lists': len(held), **figures(small, small, lists, held)}))
        return
    shape = tuple(int(n) for n in options.shape.split('x'))
    exits = tuple(int(e) for e in options.exits.split(',')) if options.exits else shape[:1]
    student = student_of(options.start, shape, exits, small, lists, train).to(DEVICE)
    run = torch.compile(student, dynamic=True) if options.compile else student
    written = load_targets(lists, train) if options.targets else None
    matched = spread_out(shape[0])

    def loss_of(outputs, target):
        last = outputs[-1].detach()
        return list_loss(outputs[-1], target) + sum(EARLY * list_loss(o, target, last) for o in outputs[:-1])

    def written_step(rng):
        drawn = on_device(rng.sample(range(len(written[0])), min(options.lists, len(written[0]))))
        rows, read, said = (values[drawn] for values in written)
        return loss_of(states_of(run, lists, rows, read, rng.choice(WRITTEN_CAPS), PARTS)[0], said), read.numel()

    def step(rng):
        drawn = train[on_device(rng.sample(range(len(train)), min(options.lists, len(train))))]
        read, ensemble = lists.draw(drawn, DRAWN if options.hard else CANDIDATES, rng)
        cap, wanted = rng.choice(CAPS), matched if options.hidden else ()
        targets = lambda said, ensemble: options.trust * in_spread(said) + ((1 - options.trust) * in_spread(ensemble) if options.trust < 1 else 0)
        with torch.no_grad():
            if options.hard:
                said = states_of(small, lists, drawn, read, cap, PARTS)[0][-1]
                wrong = (in_spread(said) - in_spread(ensemble)) if options.trust < 1 else in_spread(said)
                wrong[:, 0] = wrong.max() + 1  # the own passage stays, and first
                kept = wrong.topk(CANDIDATES, 1).indices
                read, ensemble = read.gather(1, kept), ensemble.gather(1, kept)
            said, theirs, _ = states_of(small, lists, drawn, read, cap, PARTS, wanted)
        outputs, ours, masks = states_of(run, lists, drawn, read, cap, PARTS, range(len(wanted)))
        loss = loss_of(outputs, targets(said[-1], ensemble))
        if options.hidden:
            loss = loss + options.hidden * hidden_loss(ours, theirs, masks)
        return loss, read.numel()

    about = {'shape': options.shape, 'trust': options.trust, 'hidden': options.hidden, 'hard': options.hard, 'left': leave, 'targets': options.targets,
             'minutes': options.minutes, 'rate': options.rate}
    training = Training(options.name, student, groups_of(student, options.rate, options.start in ('small', 'first', 'nano')), lambda average: figures(average, small, lists, held),
                        {'exits': exits, 'layers': shape[0], 'inner': shape[2], 'heads': shape[1], 'start': options.start, 'after': None})
    training.run(options.minutes, written_step if options.targets else step)
    pack(training.path, about)
    line = {'name': options.name, 'start': options.start, **about, 'seed': SEED, 'pairs': training.seen, **figures(training.average, small, lists, held)}
    with open(CACHE / 'students.jsonl', 'a') as file:
        file.write(json.dumps(line) + '\n')
    print(json.dumps(line))


if __name__ == '__main__':
    main()
