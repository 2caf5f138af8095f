"""Writes measures.json.gz: values of pytrec_eval and ir_measures over synthetic runs and judgements.

    python -m venv .cache/golden-retrieval
    .cache/golden-retrieval/bin/pip install -r test/golden/retrieval/requirements.txt
    .cache/golden-retrieval/bin/python test/golden/retrieval/generate.py

Each case has qrels and a run as they would be in TREC's files, the values of every query that pytrec_eval answers, and
ir_measures' means over the queries of the qrels. MRR@k is made from pytrec_eval's recip_rank (ir_measures takes RR@k
from another tool, which breaks ties otherwise).

    … generate.py FOLDER

prints the same for a collection (qrels.tsv and bm25.trec), to compare by hand.
"""

import gzip
import json
import random
import sys
from pathlib import Path

import ir_measures
import pytrec_eval
from ir_measures import AP, R, nDCG

HERE = Path(__file__).resolve().parent
CUTOFFS = [1, 3, 5, 10, 100]
WANTED = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in ("ndcg_cut", "recall")} | {"map", "recip_rank"}


def values(qrels, run):
    rows = {}
    for query, found in pytrec_eval.RelevanceEvaluator(qrels, WANTED).evaluate(run).items():
        rank = found["recip_rank"]
        row = {"MAP": found["map"]}
        for k in CUTOFFS:
            row[f"nDCG@{k}"] = found[f"ndcg_cut_{k}"]
            row[f"R@{k}"] = found[f"recall_{k}"]
            row[f"MRR@{k}"] = rank if rank >= 1 / k - 1e-9 else 0.0
        rows[query] = dict(sorted(row.items()))
    return rows


def means(qrels, run):
    """ir_measures' means: over the queries of the qrels, 0 for one that the run lacks."""
    found = ir_measures.calc_aggregate([nDCG @ 10, AP, R @ 100], qrels, run)
    return {"nDCG@10": found[nDCG @ 10], "MAP": found[AP], "R@100": found[R @ 100]}


def case(name, qrels, run):
    lines = [f"{q} Q0 {d} {i + 1} {s!r} golden" for q, docs in run.items() for i, (d, s) in enumerate(docs.items())]
    return {"name": name, "qrels": qrels, "run": lines, "values": values(qrels, run), "means": means(qrels, run)}


def synthetic(seed, ids, score, grades, queries=12, depth=120, judged=40):
    rng = random.Random(seed)
    names = [f"q{i}" for i in range(queries)]
    run = {q: {d: score(rng) for d in rng.sample(ids, depth)} for q in names[: queries - 2]}
    qrels = {q: {d: rng.choice(grades) for d in rng.sample(ids, judged)} for q in names[2:]}
    return qrels, run


def cases():
    plain = [f"d{i}" for i in range(300)]
    distinct = lambda rng: rng.random() * 40 - 20
    yield case("distinct scores, binary grades", *synthetic(1, plain, distinct, [0, 0, 1]))
    yield case("distinct scores, graded", *synthetic(2, plain, distinct, [0, 1, 2, 3, 7]))
    yield case("many ties", *synthetic(3, plain, lambda rng: float(rng.randrange(4)), [0, 1, 2]))
    yield case("all scores equal", *synthetic(4, plain, lambda rng: 0.5, [0, 1, 2]))
    yield case("negative grades", *synthetic(5, plain, lambda rng: float(rng.randrange(30)), [-2, -1, 0, 1, 3]))
    yield case("nothing relevant", *synthetic(6, plain, distinct, [-1, 0]))
    # Ties by bytes: beyond the basic plane, where UTF-16 and UTF-8 order differently, and prefixes of each other.
    odd = [c * n for c in ("a", "B", "é", "\uff5e", "\U0001f600", "文", "\ue000", "-", "9", "~") for n in range(1, 16)]
    yield case("ties between ids of any script", *synthetic(7, odd, lambda rng: float(rng.randrange(3)), [0, 1, 2]))
    # trec_eval holds scores in single precision: these tie there.
    near = lambda rng: 1 - rng.randrange(5) * 1e-9 - rng.randrange(3) * 1e-7
    yield case("scores that differ beyond single precision", *synthetic(8, plain, near, [0, 1, 2]))
    yield case("short rankings", *synthetic(9, plain, distinct, [0, 1, 1, 2], depth=4, judged=60))
    yield case("few judgements", *synthetic(10, plain, lambda rng: float(rng.randrange(50)), [0, 1], judged=2))
    yield case("single document", {"q": {"d": 1}, "only-judged": {"d": 1}}, {"q": {"d": 0.0}, "only-run": {"d": 1.0}})


def collection(folder):
    judged = [line.rstrip("\n").split("\t") for line in open(folder / "qrels.tsv")][1:]
    qrels, run = {}, {}
    for query, document, grade in judged:
        qrels.setdefault(query, {})[document] = int(grade)
    for line in open(folder / "bm25.trec"):
        query, _, document, _, score, _ = line.split()
        run.setdefault(query, {})[document] = float(score)
    rows = values(qrels, run)
    mrr = sum(row["MRR@10"] for row in rows.values()) / len(qrels)
    return {"queries": len(qrels), "MRR@10": mrr, **means(qrels, run)}


if len(sys.argv) > 1:
    print(json.dumps(collection(Path(sys.argv[1]))))
else:
    written = json.dumps(list(cases()), separators=(",", ":")).encode()
    (HERE / "measures.json.gz").write_bytes(gzip.compress(written, 9, mtime=0))
