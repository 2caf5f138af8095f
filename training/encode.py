"""Token ids of the lists, and batches of pairs as the tokeniser itself would give them."""
import json
import random
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from model import CLS, SEP
from settings import CACHE, DEVICE, base_folder

HELD_OUT = 300  # passages whose queries are kept out of training


def tokenizer():
    read = Tokenizer.from_file(str(base_folder() / 'tokenizer.json'))
    read.no_padding()
    read.no_truncation()
    return read


def ids_of(texts, limit):
    return [e.ids[:limit] for e in tokenizer().encode_batch(texts, add_special_tokens=False)]


class RankedList(NamedTuple):
    source: str
    query: list  # token ids
    own: int  # the passage that the query is about
    picked: list  # candidates, the own passage first
    scores: list  # the teacher's, of each candidate
    row: int  # of the query in teachers.npz


def load_lists():
    """(passage ids, training lists, held-out lists)."""
    passages = ids_of([p[:1500] for _, p in json.loads((CACHE / 'data/passages.json').read_text())], 256)
    lists = json.loads((CACHE / 'data/lists.json').read_text())
    queries = ids_of([query for _, query, *_ in lists], 64)
    lists = [RankedList(source, ids, *rest, row) for row, ((source, _, *rest), ids) in enumerate(zip(lists, queries))]
    train, held = split(lists)
    return passages, train, held


def split(lists, own=lambda one: one.own):
    """Training and held-out; no passage that a held-out query is about is one that a training query asks for."""
    owns = sorted({own(one) for one in lists})
    out = set(random.Random(1).sample(owns, min(HELD_OUT, len(owns) // 10)))
    return [one for one in lists if own(one) not in out], [one for one in lists if own(one) in out]


def batch_of(lists, passages, candidates, cap, rng):
    """Pairs of `candidates` a list, the first being the query's own passage; teacher scores [lists, candidates]."""
    rows, targets = [], []
    for one in lists:
        others, query = list(range(1, len(one.picked))), one.query[:48]
        chosen = rng.sample(others, candidates - 1) if len(others) >= candidates - 1 else rng.choices(others, k=candidates - 1)
        for i in (0, *chosen):
            rows.append((query, passages[one.picked[i]][:cap - 3 - len(query)]))
            targets.append(one.scores[i])
    longest = max(len(q) + len(p) + 3 for q, p in rows)
    ids, mask, types = (torch.zeros((len(rows), longest), dtype=torch.long) for _ in range(3))
    for r, (query, passage) in enumerate(rows):
        row = [CLS, *query, SEP, *passage, SEP]
        ids[r, :len(row)] = torch.tensor(row)
        mask[r, :len(row)] = 1
        types[r, len(query) + 2:len(row)] = 1
    return ids.to(DEVICE), mask.to(DEVICE), types.to(DEVICE), torch.tensor(targets).view(len(lists), -1).to(DEVICE)
