"""Test collections in BEIR's files, the held-out part of the training domains among them, and measures of a ranking.

    python collection.py    writes .cache/heldout-weights and .cache/heldout (for the fusion's weights, and for figures)
"""
import itertools
import json
import math
import random

import numpy as np

from settings import CACHE, SEED

DEPTH = 100
HELD_OUT = 400  # queries
HALVES = ('heldout-weights', 'heldout')


class Collection:
    """corpus.jsonl, queries.jsonl, qrels.tsv, bm25.trec of a folder; the first `most` queries, evenly taken, if given."""

    def __init__(self, folder, most=None):
        lines = lambda name: [json.loads(line) for line in open(folder / name)]
        self.name = folder.name
        self.documents = {d['_id']: f"{d.get('title') or ''} {d['text']}".strip() for d in lines('corpus.jsonl')}
        self.queries = {q['_id']: q['text'] for q in lines('queries.jsonl')}
        self.judged, self.run = {}, {}
        for line in list(open(folder / 'qrels.tsv'))[1:]:
            query, document, grade = line.rstrip('\n').split('\t')
            self.judged.setdefault(query, {})[document] = int(grade)
        for line in open(folder / 'bm25.trec'):
            query, _, document, _, score, _ = line.split()
            if query in self.judged:
                self.run.setdefault(query, []).append((document, float(score)))
        if most is not None and most < len(self.run):
            kept = list(self.run)
            self.run = {kept[i * len(kept) // most]: self.run[kept[i * len(kept) // most]] for i in range(most)}


def measures(ranking, judged):
    """nDCG@10 (gain = grade), MRR@10, average precision."""
    gain = lambda grades: sum(g / math.log2(i + 2) for i, g in enumerate(grades[:10]))
    grades = [max(judged.get(d, 0), 0) for d in ranking]
    ideal = gain(sorted(judged.values(), reverse=True))
    relevant = sum(g > 0 for g in judged.values())
    hits = [i for i, g in enumerate(grades) if g > 0]
    precision = sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / relevant if relevant else 0
    return gain(grades) / ideal if ideal else 0, 1 / (hits[0] + 1) if hits and hits[0] < 10 else 0, precision


def measured(collection, scores):
    """Measures of each query, [queries, measures]; ties stay in the first stage's order."""
    rows = []
    for query, run in collection.run.items():
        order = sorted(range(len(run)), key=lambda i: (-scores[query][i], i))
        rows.append(measures([run[i][0] for i in order], collection.judged[query]))
    return np.array(rows)


def figures(collection, scores):
    """Means over the queries."""
    return dict(zip(('ndcg@10', 'mrr@10', 'map'), (round(float(m), 4) for m in measured(collection, scores).mean(0))))


def spare_pairs(count):
    """(query, passage) of pairs whose passages are in no list, each source's share of them about the same: no cross-encoder has seen them."""
    rng, end = random.Random(SEED), 60
    # A passage that is asked for by a sentence of its own has lost that sentence: one of its ends is still there.
    known = {part for _, passage in json.loads((CACHE / 'data/passages.json').read_text()) for part in (passage[:end], passage[-end:])}
    by_source = {}
    for source, query, passage in json.loads((CACHE / 'data/pairs.json').read_text()):
        if len(passage) > 200 and passage[:end] not in known and passage[-end:] not in known:
            by_source.setdefault(source, []).append((query, passage))
    for pairs in by_source.values():
        rng.shuffle(pairs)
    turns = itertools.zip_longest(*by_source.values())
    return list(itertools.islice((pair for turn in turns for pair in turn if pair), count))


def write_held_out():
    """Queries that no list is of, in two halves; the relevant passage is the query's own, among those of the lists and of one another."""
    import bm25s
    import Stemmer

    if all((CACHE / half / 'bm25.trec').exists() for half in HALVES):
        return
    passages, held = [passage for _, passage in json.loads((CACHE / 'data/passages.json').read_text())], []
    for query, passage in spare_pairs(HELD_OUT):
        held.append((query, len(passages)))
        passages.append(passage)
    stemmer, index = Stemmer.Stemmer('english'), bm25s.BM25(k1=.9, b=.4)
    words = lambda texts, **how: bm25s.tokenize(texts, stemmer=stemmer, stopwords='en', show_progress=False, **how)
    index.index(words(passages), show_progress=False)
    found, scores = index.retrieve(words([query for query, _ in held], return_ids=False), k=DEPTH, show_progress=False)
    for h, half in enumerate(HALVES):
        folder = CACHE / half
        folder.mkdir(exist_ok=True)
        # A query whose own passage is not among the candidates says nothing.
        rows = [i for i in range(h, len(held), 2) if held[i][1] in found[i]]
        wanted = sorted({int(j) for i in rows for j in found[i]})
        with open(folder / 'corpus.jsonl', 'w') as file:
            file.writelines(json.dumps({'_id': f'd{j}', 'title': '', 'text': passages[j]}) + '\n' for j in wanted)
        with open(folder / 'queries.jsonl', 'w') as file:
            file.writelines(json.dumps({'_id': f'q{i}', 'text': held[i][0]}) + '\n' for i in rows)
        with open(folder / 'qrels.tsv', 'w') as file:
            file.writelines(['query-id\tcorpus-id\tscore\n', *(f'q{i}\td{held[i][1]}\t1\n' for i in rows)])
        with open(folder / 'bm25.trec', 'w') as file:
            file.writelines(f'q{i} Q0 d{j} {rank} {score:.5f} bm25\n' for i in rows
                            for rank, (j, score) in enumerate(zip(found[i], scores[i]), 1) if score > 0)
        print(half, len(rows), 'queries,', len(wanted), 'passages')


if __name__ == '__main__':
    write_held_out()
