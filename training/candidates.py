"""Queries with lists of candidates by BM25 alone, for trainings that are taught by a model that ships: minutes on a CPU, no teacher.

    python candidates.py [--times 8] [--items N]

Writes .cache/data/passages.json and .cache/data/lists.json as teacher.py does, the scores all 0: `student.py` takes its targets
from rankmill-small then (`--trust 1`). Where teacher.py has made lists, these are the better ones, and nothing is written.
"""
import argparse
import json
import random
import sys

import bm25s
import Stemmer

from settings import CACHE, SEED
from teacher import candidates_of, choose_passages, keywords, rarity_of

DEPTH = 61


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--times', type=int, default=8)
    options.add_argument('--items', type=int)
    options.add_argument('--seed', type=int, default=SEED)
    options = options.parse_args()
    if (CACHE / 'data/lists.json').exists():
        sys.exit('.cache/data/lists.json is there: remove it to make it again')
    rng = random.Random(options.seed)
    items = choose_passages(rng, options.times)[:options.items]
    passages = [p for _, _, p in items]
    rarity = rarity_of(passages)
    asked = []
    for own, (source, query, passage) in enumerate(items):
        asked.append((source, query, own))
        # Other ways to ask for the same: words that stand in it, and its heading as a question.
        if rng.random() < .3 and (words := keywords(rng, passage, rarity)):
            asked.append((source.removesuffix('-ict') + '-words', words, own))
        if rng.random() < .15 and 2 <= len(query.split()) <= 8 and not query.endswith('?'):
            asked.append((source.removesuffix('-ict') + '-question', rng.choice(['what is {}', 'how does {} work', 'explain {}', '{}?']).format(query), own))
    stemmer, index = Stemmer.Stemmer('english'), bm25s.BM25(k1=.9, b=.4)
    words = lambda texts, **how: bm25s.tokenize(texts, stemmer=stemmer, stopwords='en', show_progress=False, **how)
    index.index(words(passages), show_progress=False)
    lists = []
    for a in range(0, len(asked), 4096):
        block = asked[a:a + 4096]
        found, scores = index.retrieve(words([query for _, query, _ in block], return_ids=False), k=min(DEPTH, len(passages)), show_progress=False)
        for (source, query, own), row, values in zip(block, found.tolist(), scores.tolist()):
            alike = [j for j, value in zip(row, values) if value > 0 and j != own]
            # A query whose own passage is not near the top does not describe it.
            if own in row[:26] and len(alike) >= 24:
                picked = candidates_of(rng, own, alike, alike[24:], len(passages))
                lists.append((source, query, own, picked, [0] * len(picked)))
        print(min(a + 4096, len(asked)), 'of', len(asked), flush=True)
    (CACHE / 'data/passages.json').write_text(json.dumps([(source, passage) for source, _, passage in items]))
    (CACHE / 'data/lists.json').write_text(json.dumps(lists))
    print(len(passages), 'passages,', len(lists), 'lists')


if __name__ == '__main__':
    main()
