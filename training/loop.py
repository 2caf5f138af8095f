"""The training loop that all models share: resumable, bounded in time, with a running average of the weights."""
import copy
import json
import random
import time

import torch
import torch.nn.functional as F

from master import read_state
from settings import CACHE, DEVICE, MODELS, SEED

SAVE_SECONDS, PRINT_EVERY = 300, 20


def fast_bf16():
    """Whether bf16 is computed, not emulated: without the instructions for it a CPU is many times slower in it than in fp32."""
    if DEVICE == 'cuda':
        return True
    has = lambda name: getattr(torch.cpu, name, lambda: False)()
    return has('_is_avx512_bf16_supported') or has('_is_amx_tile_supported')


def autocast():
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=fast_bf16())


def rank_correlation(ours, theirs):
    """Spearman's of each list's scores, [lists, candidates], on average."""
    places = lambda scores: F.normalize(scores.argsort(1).argsort(1).float() - (scores.shape[1] - 1) / 2, dim=1)
    return round(float((places(ours) * places(theirs)).sum(1).mean()), 4)


def best_alike(ours, theirs):
    """In what share of the lists the same candidate is first."""
    return round(float((ours.argmax(1) == theirs.argmax(1)).float().mean()), 4)


def go_on_from_shipped(model, name):
    """Loads what models/rankmill-NAME ships, as far as the model has such parts; gives what that was trained on.

    So a training lasts from one machine to the next: through the repository.
    """
    folder, own = MODELS / f'rankmill-{name}', model.state_dict()
    shipped = {k: torch.from_numpy(v.copy()).reshape(own[k].shape) for k, v in read_state(folder).items() if k in own}
    model.load_state_dict(shipped, strict=False)
    print('new parts:', [k for k in own if k not in shipped], flush=True)
    manifest = json.loads((folder / 'rankmill.json').read_text())
    return {'version': manifest['version'], **manifest['training']}


class Training:
    """`figures` says how good a model is, for the log; `about` goes into the checkpoint with the weights.

    Checkpoint: .cache/NAME.pt; log: .cache/NAME-training.jsonl. Steps draw from generators seeded by their number, so that a
    training that was interrupted sees the same lists.
    """

    def __init__(self, name, model, groups, figures, about, clip=1.0, extra=()):
        self.name, self.model, self.figures, self.about, self.clip = name, model.to(DEVICE), figures, about, clip
        self.average, self.extra = copy.deepcopy(model), list(extra)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
        self.rates = [g['lr'] for g in self.optimiser.param_groups]
        self.path, self.log = CACHE / f'{name}.pt', CACHE / f'{name}-training.jsonl'
        self.step, self.seen, self.spent = 0, 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, map_location=DEVICE, weights_only=False)
            self.model.load_state_dict(state['model'])
            self.average.load_state_dict(state['average'])
            self.optimiser.load_state_dict(state['optimiser'])
            for parameter, value in zip(self.extra, state['extra']):
                parameter.data.copy_(value)
            self.step, self.seen, self.spent = state['step'], state['seen'], state['spent']

    def save(self):
        line = {'step': self.step, 'seen': self.seen, 'minutes': round(self.spent / 60, 1), 'held_out': self.figures(self.average)}
        print(json.dumps(line), flush=True)
        with open(self.log, 'a') as file:
            file.write(json.dumps(line) + '\n')
        partial = self.path.with_suffix('.partial')
        torch.save({'model': self.model.state_dict(), 'average': self.average.state_dict(), 'optimiser': self.optimiser.state_dict(),
                    'extra': [p.data for p in self.extra], 'step': self.step, 'seen': self.seen, 'spent': self.spent, **self.about}, partial)
        partial.replace(self.path)

    def run(self, minutes, step):
        """step(rng) gives a loss and how many pairs or texts it is of; the rates fall to nothing at the end of the minutes."""
        budget = minutes * 60
        if self.step == 0:
            self.save()
        saved = self.spent
        while self.spent < budget:
            began = time.monotonic()
            rate = min(1, (self.step + 1) / 40) * max(0.02, 1 - self.spent / budget)
            for group, base in zip(self.optimiser.param_groups, self.rates):
                group['lr'] = base * rate
            loss, count = step(random.Random(SEED * 1_000_003 + self.step))
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g['params']], self.clip)
            self.optimiser.step()
            self.step, self.seen = self.step + 1, self.seen + count
            keep = min(0.998, (self.step + 1) / (self.step + 20))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
            self.spent += time.monotonic() - began
            if self.step % PRINT_EVERY == 0:
                print(f'{self.step} {self.spent:.0f}s {self.seen / self.spent:.1f}/s loss {loss.item():.3f}', flush=True)
            if self.spent - saved > SAVE_SECONDS:
                self.save()
                saved = self.spent
        self.save()
