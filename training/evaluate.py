"""Reranks BM25's first 100 and prints nDCG@10, MRR@10 and MAP.

    python evaluate.py FOLDER… [--models ../models/rankmill-small] [--files onnx/model_int8.onnx …] [--minilm]

A folder is a BEIR-style collection: corpus.jsonl, queries.jsonl, qrels.tsv, bm25.trec. Results go to results.json.
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from settings import HERE, MODELS

BATCH = 4  # small batches are the fastest on a CPU


class Collection:
    def __init__(self, folder):
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


def measures(ranking, judged):
    gain = lambda grades: sum(g / math.log2(i + 2) for i, g in enumerate(grades[:10]))
    grades = [max(judged.get(d, 0), 0) for d in ranking]
    ideal = gain(sorted(judged.values(), reverse=True))
    relevant = sum(g > 0 for g in judged.values())
    hits = [i for i, g in enumerate(grades) if g > 0]
    precision = sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / relevant if relevant else 0
    return gain(grades) / ideal if ideal else 0, 1 / (hits[0] + 1) if hits and hits[0] < 10 else 0, precision


def figures(collection, scores):
    """Means over the queries; ties stay in the first stage's order."""
    rows = []
    for query, run in collection.run.items():
        order = sorted(range(len(run)), key=lambda i: (-scores[query][i], i))
        rows.append(measures([run[i][0] for i in order], collection.judged[query]))
    return dict(zip(('ndcg@10', 'mrr@10', 'map'), (round(float(m), 4) for m in np.mean(rows, 0))))


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def cross_scores(collection, folder, file, longest, threads):
    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, strategy='longest_first')
    model, result = session(folder / file, threads), {}
    for query, run in collection.run.items():
        pairs = tokenizer.encode_batch([(collection.queries[query], collection.documents[d]) for d, _ in run])
        result[query] = np.zeros(len(run), np.float32)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].ids))
        for a in range(0, len(order), BATCH):
            rows = order[a:a + BATCH]
            feed = {n: np.zeros((len(rows), len(pairs[rows[-1]].ids)), np.int64) for n in ('input_ids', 'attention_mask', 'token_type_ids')}
            for r, i in enumerate(rows):
                n = len(pairs[i].ids)
                feed['input_ids'][r, :n], feed['attention_mask'][r, :n], feed['token_type_ids'][r, :n] = pairs[i].ids, 1, pairs[i].type_ids
            result[query][rows] = model.run(['logits'], feed)[0][:, 0]
    return result


def cosine_scores(collection):
    from teacher import minilm
    encode = minilm()
    wanted = sorted({d for run in collection.run.values() for d, _ in run})
    documents = dict(zip(wanted, encode([collection.documents[d] for d in wanted], 256)))
    queries = dict(zip(collection.run, encode([collection.queries[q] for q in collection.run], 64)))
    return {q: np.array([documents[d] @ queries[q] for d, _ in run]) for q, run in collection.run.items()}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('folders', nargs='+', type=Path)
    options.add_argument('--models', nargs='*', type=Path, default=[MODELS / 'rankmill-small'])
    options.add_argument('--files', nargs='*', default=['onnx/model_int8.onnx', 'onnx/model.onnx'])
    options.add_argument('--tokens', type=int, default=512)
    options.add_argument('--threads', type=int, default=1)
    options.add_argument('--minilm', action='store_true')
    options = options.parse_args()
    path = HERE / 'results.json'

    def note(collection, name, scores):
        found = figures(collection, scores)
        # Read again each time: another evaluation may have written in between.
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault('quality', {}).setdefault(collection.name, {})[name] = found
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
        print(f'{collection.name:12} {name:40}', *(f'{k} {v:.4f}' for k, v in found.items()), flush=True)

    for folder in options.folders:
        collection = Collection(folder)
        note(collection, 'BM25', {q: [s for _, s in run] for q, run in collection.run.items()})
        if options.minilm:
            note(collection, 'all-MiniLM-L6-v2 cosine', cosine_scores(collection))
        for model in options.models:
            for file in options.files:
                note(collection, f'{model.name} {Path(file).stem}', cross_scores(collection, model, file, options.tokens, options.threads))


if __name__ == '__main__':
    main()
