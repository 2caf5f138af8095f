"""Reranks BM25's first 100 and prints nDCG@10, MRR@10 and MAP of every model, exit and number format.

    python evaluate.py [FOLDER…] [--queries N] [--models small,nano,filter] [--dtypes int8,fp32]

Folders are BEIR-style collections: corpus.jsonl, queries.jsonl, qrels.tsv, bm25.trec; the held-out part of the training domains
comes first where its data is at hand. Scores are kept in .cache/scores, so that an evaluation goes on where it was stopped.
Figures go to results.json. Weights of the fused rows are learned on queries of the training domains that no model was trained
on and no figure is taken from, and written to each model's rankmill.json.
"""
import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from collection import HALVES, Collection, figures, write_held_out
from settings import CACHE, HERE, MODELS

BATCH = 4  # small batches are the fastest on a CPU


def session(path, threads=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def padded(encoded):
    feed = {n: np.zeros((len(encoded), max(len(e.ids) for e in encoded)), np.int64) for n in ('input_ids', 'attention_mask', 'token_type_ids')}
    for r, e in enumerate(encoded):
        n = len(e.ids)
        feed['input_ids'][r, :n], feed['attention_mask'][r, :n], feed['token_type_ids'][r, :n] = e.ids, 1, e.type_ids
    return feed


def tokenizer_of(folder, longest):
    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, strategy='longest_first')
    return tokenizer


def batches(encoded):
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    return [order[a:a + BATCH] for a in range(0, len(order), BATCH)]


class CrossEncoder:
    """The logits after each exit, the stages run one after another; of a model without stages its only ones."""

    def __init__(self, folder, dtype, longest):
        manifest = json.loads((folder / 'rankmill.json').read_text())
        exits = manifest.get('exits') or [{'layer': None, 'files': manifest['dtypes']}]
        self.name, self.files = f'{manifest["name"]} {dtype}', [folder / e['files'][dtype] for e in exits]
        self.exits = [e['layer'] for e in exits]
        self.tokenizer, self.sessions = tokenizer_of(folder, longest), None

    def __call__(self, query, documents):
        self.sessions = self.sessions or [session(file) for file in self.files]
        pairs = self.tokenizer.encode_batch([(query, d) for d in documents])
        result = np.zeros((len(self.exits), len(pairs)), np.float32)
        for rows in batches(pairs):
            ids, more = padded([pairs[i] for i in rows]), {}
            for k, stage in enumerate(self.sessions):
                found = dict(zip([o.name for o in stage.get_outputs()], stage.run(None, {**ids, **more})))
                result[k, rows] = found.pop('logits')[:, 0]
                more = found
        return result

    def rows(self, scores):
        for k, exit in enumerate(self.exits):
            yield (f'{self.name} exit {exit}' if k < len(self.exits) - 1 else self.name), {q: s[k] for q, s in scores.items()}


class BiEncoder:
    """Cosines; a text that came up before keeps its embedding."""

    def __init__(self, folder, dtype, longest):
        manifest = json.loads((folder / 'rankmill.json').read_text())
        self.name, self.files = f'{manifest["name"]} {dtype}', [folder / manifest['dtypes'][dtype]]
        self.tokenizer, self.session, self.known = tokenizer_of(folder, longest), None, {}

    def __call__(self, query, documents):
        self.session = self.session or session(self.files[0])
        new = [t for t in dict.fromkeys([query, *documents]) if t not in self.known]
        encoded = self.tokenizer.encode_batch(new)
        for rows in batches(encoded):
            for i, vector in zip(rows, self.session.run(['sentence_embedding'], padded([encoded[i] for i in rows]))[0]):
                self.known[new[i]] = vector
        return np.array([[self.known[d] @ self.known[query] for d in documents]])

    def rows(self, scores):
        yield self.name, {q: s[0] for q, s in scores.items()}


class MiniLM(BiEncoder):
    def __init__(self, longest):
        from teacher import minilm
        self.name, self.encoder, self.known, self.longest = 'all-MiniLM-L6-v2 cosine', minilm(threads=1), {}, longest
        self.files = [CACHE / 'minilm.onnx']

    def __call__(self, query, documents):
        new = [t for t in dict.fromkeys([query, *documents]) if t not in self.known]
        self.known.update(zip(new, self.encoder(new, self.longest)))
        return np.array([[self.known[d] @ self.known[query] for d in documents]])


def scores_of(collection, model, longest):
    """Scores of each query's candidates, [exits, candidates], computed at most once for each version of the model's files."""
    content = hashlib.sha256(str(longest).encode())
    for file in model.files:
        content.update(file.read_bytes())
        content.update(b''.join(f.read_bytes() for f in (file.parent / 'model_int8.onnx', file.parent / 'model.onnx') if f.exists()))
    path = CACHE / f'scores/{collection.name} {model.name} {content.hexdigest()[:12]}.jsonl'
    path.parent.mkdir(exist_ok=True)
    known = dict(json.loads(line) for line in open(path)) if path.exists() else {}
    with open(path, 'a') as file:
        for query, run in collection.run.items():
            if query not in known:
                known[query] = model(collection.queries[query], [collection.documents[d] for d, _ in run]).round(5).tolist()
                file.write(json.dumps([query, known[query]]) + '\n')
                file.flush()
    return {q: np.array(known[q]) for q in collection.run}


def standard(scores):
    """Z-scores within each list, so that scores of different kinds can be added."""
    return {q: (np.array(s) - np.mean(s)) / (np.std(s) + 1e-9) for q, s in scores.items()}


def learn_fusion(collection, model, first):
    """The weight w of z(model) + w z(first stage) that makes the relevant passages likeliest, under a softmax over the list."""
    model, first = standard(model), standard(first)
    best = (np.inf, 0)
    for weight in np.arange(0, 1.01, .05):
        for sharpness in (1, 1.5, 2, 3, 4):
            loss = 0
            for query, run in collection.run.items():
                logits = sharpness * (model[query] + weight * first[query])
                hits = [i for i, (d, _) in enumerate(run) if collection.judged[query].get(d, 0) > 0]
                loss -= np.mean([logits[i] for i in hits]) - np.log(np.exp(logits).sum()) if hits else 0
            best = min(best, (loss, float(weight)))
    return round(best[1], 2)


def ranks_fused(*firsts):
    """Several first stages by their ranks, as a prefilter of several has it."""
    place = lambda scores: np.argsort(np.argsort(-np.array(scores), kind='stable'))
    return {q: np.mean([61 / (61 + place(first[q])) for first in firsts], 0) for q in firsts[0]}


def fused(model, first, weight):
    model, first = standard(model), standard(first)
    return {q: model[q] + weight * first[q] for q in model}


def without_weight(row):
    return re.sub(r' \+ \d\.\d\d ', ' + ', row)


def version_of(row):
    """Of the model that a row is of, so that a card can say which version a figure was measured with."""
    manifest = MODELS / row.split(' ')[0] / 'rankmill.json'
    return {'version': json.loads(manifest.read_text())['version']} if manifest.exists() else {}


def models_of(options):
    models = []
    for name in options.models:
        folder = MODELS / f'rankmill-{name}'
        if not (folder / 'rankmill.json').exists():
            print(f'# skipped: {folder} is not there')
            continue
        kind = json.loads((folder / 'rankmill.json').read_text())['kind']
        for dtype in options.dtypes:
            models.append((BiEncoder if kind == 'bi-encoder' else CrossEncoder)(folder, dtype, options.tokens))
    if not options.no_minilm:
        try:
            models.insert(0, MiniLM(256))
        except ImportError as missing:
            print(f'# skipped: all-MiniLM-L6-v2, {missing}')
    return models


def evaluate(collection, models, longest, weights, note):
    """Prints and notes every row; `weights` by cross-encoder and first stage, learned here where it is None."""
    bm25 = {q: [s for _, s in run] for q, run in collection.run.items()}
    note(collection, 'BM25', bm25)
    crossed, firsts = {}, {'bm25': bm25}
    for model in models:
        for name, scores in model.rows(scores_of(collection, model, longest)):
            note(collection, name, scores)
            if isinstance(model, CrossEncoder):
                crossed[name] = scores
            elif name == 'rankmill-filter int8':
                firsts['rankmill-filter'] = scores
                firsts['bm25+rankmill-filter'] = ranks_fused(bm25, scores)
    learned = {}
    for name, scores in crossed.items():
        base = name.split(' ')[0]
        if name != f'{base} int8':
            continue
        for first, theirs in firsts.items():
            learned.setdefault(base, {})[first] = weight = learn_fusion(collection, scores, theirs) if weights is None else weights.get(base, {}).get(first)
            if weight is not None:
                note(collection, f'{name} + {weight:.2f} {first}', fused(scores, theirs, weight))
    return learned


def main():
    options = argparse.ArgumentParser()
    options.add_argument('folders', nargs='*', type=Path)
    options.add_argument('--models', type=lambda names: names.split(','), default=['filter', 'nano', 'small'])
    options.add_argument('--dtypes', type=lambda names: names.split(','), default=['int8', 'fp32'])
    options.add_argument('--tokens', type=int, default=512)
    options.add_argument('--queries', type=int, help='at most so many of each collection, evenly taken')
    options.add_argument('--no-minilm', action='store_true')
    options.add_argument('--no-held-out', action='store_true')
    options = options.parse_args()
    path = HERE / 'results.json'

    def note(collection, row, scores):
        found = {'queries': len(collection.run), **version_of(row), **figures(collection, scores)}
        # Read again each time: another evaluation may have written in between.
        results = json.loads(path.read_text()) if path.exists() else {}
        rows = results.setdefault('quality', {}).setdefault(collection.name, {})
        # A fused row under another weight is of weights that were learned before.
        for old in [r for r in rows if without_weight(r) == without_weight(row)]:
            del rows[old]
        rows[row] = found
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
        print(f'{collection.name:16} {row:44}', *(f'{k} {v:.4f}' if isinstance(v, float) else f'({k} {v})' for k, v in found.items()), flush=True)

    models, weights = models_of(options), {}
    if options.no_held_out:
        print('# skipped: the held-out part of the training domains; --no-held-out')
    elif (CACHE / 'data/lists.json').exists():
        write_held_out()
        learned = evaluate(Collection(CACHE / HALVES[0], options.queries), models, options.tokens, None, lambda *_: None)
        for name, found in learned.items():
            # BM25 over the whole collection is what requests bring along as their first stage's scores.
            found.update({first.replace('bm25', 'first-stage'): weight for first, weight in found.items() if 'bm25' in first})
            file = MODELS / name / 'rankmill.json'
            manifest = json.loads(file.read_text())
            manifest['fusion'] = {'score': 'z(model) + weight * z(first stage), z over the list', 'weights': {**manifest.get('fusion', {}).get('weights', {}), **found}}
            file.write_text(json.dumps(manifest, indent=2) + '\n')
        options.folders.insert(0, CACHE / HALVES[1])
    else:
        print('# skipped: the held-out part of the training domains; teacher.py makes its data')
    for name in options.models:
        file = MODELS / f'rankmill-{name}/rankmill.json'
        weights[f'rankmill-{name}'] = json.loads(file.read_text()).get('fusion', {}).get('weights', {}) if file.exists() else {}
    for folder in options.folders:
        if not (folder / 'bm25.trec').exists():
            print(f'# skipped: {folder} has no bm25.trec')
            continue
        evaluate(Collection(folder, options.queries), models, options.tokens, weights, note)


if __name__ == '__main__':
    main()
