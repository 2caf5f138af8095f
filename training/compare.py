"""Compares versions and number formats of a model on judged queries: BM25's first 100, reordered by each.

    python compare.py ../models/rankmill-small:fp32 OLD/rankmill-small:int8 ../models/rankmill-small:int8 --collections FOLDER…

The first is what the others are held against. Of each exit and collection, and of all collections together: nDCG@10; the mean
difference of each from the first and of each from the one before it, over the same queries, and what share of the first's nDCG@10 is
kept, with 95 % intervals (10,000 resamplings of the queries); and of each list as a whole, with no judgement: rank correlation with the
first, noise (what scores are off by, as a share of how they vary) and how many of the first's first ten are among the first ten. An
older version comes out of `git archive COMMIT models | tar x -C OLD`. Scores are kept as evaluate.py keeps them.
"""
import argparse
import itertools
from pathlib import Path

import numpy as np

from collection import Collection, measured
from evaluate import BiEncoder, CrossEncoder, scores_of
from settings import SEED

RESAMPLINGS = 10_000
LONGEST = 512


def opened(way):
    folder, dtype = way.rsplit(':', 1)
    is_one = (Path(folder) / 'modules.json').exists()
    return (BiEncoder if is_one else CrossEncoder)(Path(folder), dtype, LONGEST)


def interval(*values):
    """95 % of the means of each, [queries], over the same resamplings; of two, of their quotient."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, len(values[0]), (RESAMPLINGS, len(values[0])))
    means = [v[rows].mean(1) for v in values]
    return np.quantile(means[0] if len(means) == 1 else means[0] / means[1], (.025, .975))


def ranks(values):
    return np.argsort(np.argsort(values)).astype(float)


def order_of(first, scores):
    """Means over lists of rank correlation, noise, and the share of the first's first ten that are among the first ten."""
    ten = lambda s: set(np.argsort(-s, kind='stable')[:10])
    rows = [(np.corrcoef(ranks(a), ranks(b))[0, 1], np.std(a - b) / np.std(a), len(ten(a) & ten(b)) / min(10, len(a))) for a, b in zip(first, scores) if len(a) > 1]
    return np.mean(rows, 0)


def report(title, ways, ndcg, lists):
    """`ndcg` by way [queries], `lists` by way and query [candidates]."""
    print(f'\n{title}, {len(ndcg[0])} queries')
    for way, mine, scores in zip(ways, ndcg, lists):
        rho, noise, ten = order_of(lists[0], scores)
        low, high = interval(mine, ndcg[0])
        print(f'  {way:60} nDCG@10 {mine.mean():.4f}  {mine.mean() / ndcg[0].mean():.2%} of the first ({low:.2%} to {high:.2%})  '
              f'rank correlation {rho:.4f}  noise {noise:.4f}  first ten {ten:.3f}')
    pairs = dict.fromkeys([(0, i) for i in range(1, len(ways))] + list(itertools.pairwise(range(len(ways)))))
    for a, b in pairs:
        difference = ndcg[b] - ndcg[a]
        low, high = interval(difference)
        print(f'  {ways[b]} less {ways[a]}: {difference.mean():+.4f} ({low:+.4f} to {high:+.4f}), '
              f'better {(difference > 0).sum()}, worse {(difference < 0).sum()}')


def main():
    options = argparse.ArgumentParser()
    options.add_argument('ways', nargs='+', help='FOLDER:DTYPE')
    options.add_argument('--collections', nargs='+', type=Path, required=True)
    options.add_argument('--queries', type=int, help='at most so many of each collection, evenly taken')
    options = options.parse_args()
    models, together = [opened(way) for way in options.ways], {}
    for folder in options.collections:
        collection = Collection(folder, options.queries)
        found = [list(model.rows(scores_of(collection, model, LONGEST))) for model in models]
        for exits in zip(*found):
            title = ' '.join(exits[0][0].split(' ')[2:]) or 'whole model'
            ndcg = [measured(collection, scores)[:, 0] for _, scores in exits]
            lists = [list(scores.values()) for _, scores in exits]
            report(f'{collection.name}, {title}', options.ways, ndcg, lists)
            together.setdefault(title, []).append((ndcg, lists))
    for title, parts in together.items() if len(options.collections) > 1 else ():
        ndcg, lists = zip(*parts)
        report(f'all, {title}', options.ways, [np.concatenate(one) for one in zip(*ndcg)], [sum(one, []) for one in zip(*lists)])


if __name__ == '__main__':
    main()
