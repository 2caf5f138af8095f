"""Token ids of texts and lists on the device, and batches of them as the tokeniser itself would give them."""
import json
import random
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer

from model import CLS, SEP
from settings import CACHE, DEVICE, base_folder

HELD_OUT = 300  # passages whose queries are kept out of training
LONGEST, LONGEST_QUERY = 256, 64  # tokens that are kept of a passage, of a query
QUERY_IN_PAIR = 48
WIDTH = 8  # batches are padded to a multiple: attention with a bias is fast only so


def tokenizer():
    read = Tokenizer.from_file(str(base_folder() / 'tokenizer.json'))
    read.no_padding()
    read.no_truncation()
    return read


def ids_of(texts, limit):
    return [e.ids[:limit] for e in tokenizer().encode_batch(texts, add_special_tokens=False)]


class Texts:
    """Token ids, [texts, longest], zeros behind each text, and the lengths, [texts]; no special tokens."""

    def __init__(self, texts, limit):
        rows = ids_of(texts, limit)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        # Ids end at 30521, so two bytes hold them.
        ids = np.zeros((len(rows), max(1, lengths.max(initial=0))), np.int16)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int16)
        self.ids, self.lengths = torch.from_numpy(ids).to(DEVICE), torch.from_numpy(lengths).to(DEVICE)

    def __len__(self):
        return len(self.lengths)

    def at(self, rows, places):
        """Ids at places [rows, tokens]; whatever is there where a place is outside."""
        return self.ids[rows].gather(1, places.clamp(0, self.ids.shape[1] - 1)).long()


def width_of(lengths):
    return -(-int(lengths.max()) // WIDTH) * WIDTH


def texts_of(texts, rows, cap):
    """ids and mask, [rows, tokens], of at most `cap` tokens each with the special ones."""
    length = texts.lengths[rows].clamp(max=cap - 2)[:, None]
    place = torch.arange(width_of(length + 2), device=DEVICE).expand(len(rows), -1)
    ids = texts.at(rows, place - 1)
    ids[:, 0] = CLS
    ids = torch.where(place == length + 1, SEP, ids)
    mask = place < length + 2
    return ids * mask, mask.long()


def pairs_of(queries, asked, passages, read, cap):
    """ids, mask and types, [pairs, tokens]; of a passage what is beyond `cap` tokens is left out."""
    q = queries.lengths[asked].clamp(max=QUERY_IN_PAIR)[:, None]
    p = torch.minimum(passages.lengths[read][:, None], cap - 3 - q)
    place = torch.arange(width_of(q + p + 3), device=DEVICE).expand(len(asked), -1)
    ids = torch.where(place < q + 2, queries.at(asked, place - 1), passages.at(read, place - q - 2))
    ids[:, 0] = CLS
    ids = torch.where((place == q + 1) | (place == q + p + 2), SEP, ids)
    mask = place < q + p + 3
    return ids * mask, mask.long(), (mask & (place > q + 1)).long()


def by_length(parts, run, ids, mask, *types):
    """run(ids, mask, …) in parts of like length, little of which is padding; its tensor, or its list of tensors, in the given order."""
    lengths = mask.sum(1)
    order = lengths.argsort()
    found = []
    for rows in order.chunk(parts):
        longest = width_of(lengths[rows])
        found.append(run(*(each[rows, :longest] for each in (ids, mask, *types))))
    back = order.argsort()
    if isinstance(found[0], list):
        return [torch.cat(outputs)[back] for outputs in zip(*found)]
    return torch.cat(found)[back]


class Lists:
    """Queries with their candidates and the teacher's scores; the first candidate is the query's own passage.

    `queries` and `passages` are Texts; picked and scores [lists, most], of which the first `counts` are real.
    """

    def __init__(self, queries, passages, picked, scores):
        self.queries, self.passages = queries, passages
        self.counts = torch.tensor([len(p) for p in picked], device=DEVICE)
        most = max(map(len, picked))
        fill = lambda rows, kind: torch.from_numpy(np.array([[*row, *[0] * (most - len(row))] for row in rows], kind)).to(DEVICE)
        self.picked, self.scores = fill(picked, np.int64), fill(scores, np.float32)

    def draw(self, lists, candidates, rng):
        """Passages and teacher's scores, [lists, candidates]: the own passage and others by chance, none twice."""
        if int(self.counts[lists].min()) < candidates:
            raise ValueError(f'a list has fewer than {candidates} candidates')
        generator = torch.Generator(DEVICE).manual_seed(rng.getrandbits(60))
        chance = torch.rand(len(lists), self.picked.shape[1], device=DEVICE, generator=generator)
        chance[:, 0] = 2
        chance[torch.arange(chance.shape[1], device=DEVICE) >= self.counts[lists][:, None]] = -1
        places = chance.topk(candidates).indices
        return self.picked[lists].gather(1, places), self.scores[lists].gather(1, places)

    def pairs(self, lists, read, cap):
        """One batch of lists [lists] with passages [lists, candidates]."""
        return pairs_of(self.queries, lists.repeat_interleave(read.shape[1]), self.passages, read.reshape(-1), cap)


def load_lists():
    """(Lists, which of them train, which are held out)."""
    passages = Texts([p[:1500] for _, p in json.loads((CACHE / 'data/passages.json').read_text())], LONGEST)
    lists = json.loads((CACHE / 'data/lists.json').read_text())
    queries = Texts([query for _, query, *_ in lists], LONGEST_QUERY)
    train, held = split([own for _, _, own, *_ in lists])
    return Lists(queries, passages, [one[3] for one in lists], [one[4] for one in lists]), on_device(train), on_device(held)


def on_device(rows):
    return torch.tensor(rows, device=DEVICE)


def split(owns):
    """Training and held-out lists by the passage that each is about: none that a held-out query asks for is asked for in training."""
    known = sorted(set(owns))
    out = set(random.Random(1).sample(known, min(HELD_OUT, len(known) // 10)))
    return [i for i, own in enumerate(owns) if own not in out], [i for i, own in enumerate(owns) if own in out]
