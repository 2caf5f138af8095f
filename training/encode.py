"""Token ids of the lists, and batches of pairs as the tokeniser itself would give them."""
import json
import random

import torch
from tokenizers import Tokenizer

from model import CLS, SEP
from settings import CACHE, DEVICE, SEED, base_folder

HELD_OUT = 200


def tokenizer():
    read = Tokenizer.from_file(str(base_folder() / 'tokenizer.json'))
    read.no_padding()
    read.no_truncation()
    return read


def ids_of(texts, limit):
    return [e.ids[:limit] for e in tokenizer().encode_batch(texts, add_special_tokens=False)]


def load_lists():
    """(passage ids, query ids, training lists, held-out lists): a list is what teacher.py wrote."""
    items = json.loads((CACHE / 'data/items.json').read_text())
    lists = json.loads((CACHE / 'data/teach.json').read_text())
    random.Random(1).shuffle(lists)
    passages = ids_of([p[:1500] for _, _, p in items], 256)
    queries = ids_of([q for _, q, _ in items], 64)
    return passages, queries, lists[HELD_OUT:], lists[:HELD_OUT]


def teacher_scores(minilm, bge, bm25, most):
    """The ensemble on one fixed scale: each cosine over its usual spread, BM25 over the query's best in the corpus."""
    return [0.45 * (a / 0.10 + b / 0.06) + 1.2 * c / most for a, b, c in zip(minilm, bge, bm25)]


def batch_of(lists, passages, queries, candidates, cap, rng):
    """Pairs of `candidates` a list, the first being the query's own passage; teacher scores [lists, candidates]."""
    rows, targets = [], []
    for _, item, picked, minilm, bge, bm25, most in lists:
        scores = teacher_scores(minilm, bge, bm25, most)
        others = list(range(1, len(picked)))
        chosen = rng.sample(others, candidates - 1) if len(others) >= candidates - 1 else rng.choices(others, k=candidates - 1)
        for i in (0, *chosen):
            query = queries[item][:48]
            rows.append((query, passages[picked[i]][:cap - 3 - len(query)]))
            targets.append(scores[i])
    longest = max(len(q) + len(p) + 3 for q, p in rows)
    ids, mask, types = (torch.zeros((len(rows), longest), dtype=torch.long) for _ in range(3))
    for r, (query, passage) in enumerate(rows):
        row = [CLS, *query, SEP, *passage, SEP]
        ids[r, :len(row)] = torch.tensor(row)
        mask[r, :len(row)] = 1
        types[r, len(query) + 2:len(row)] = 1
    return ids.to(DEVICE), mask.to(DEVICE), types.to(DEVICE), torch.tensor(targets).view(len(lists), -1).to(DEVICE)
