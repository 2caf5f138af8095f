"""What older CPUs get: ONNX Runtime with AVX-512 and VNNI hidden from it, beside the whole one, in turn.

    python bench/without-avx512.py [--models small,nano,filter] [--rounds 16] [--lists 16]

Copies the installed package onnxruntime into a temporary folder, once without AVX-512 and once without AVX-VNNI too (AVX2), by
changing in its library what the feature tests at its start are told. Prints CPU milliseconds a pair, one thread, two pairs of 170
tokens, least of the rounds, and how the scores of lists of 32 passages agree. Passages are paragraphs of what packages say of
themselves (node_modules/*/README.md). Needs onnxruntime, numpy, tokenizers, and an x86-64 CPU that has what is hidden.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

HERE = pathlib.Path(__file__).resolve().parent.parent
# xor ecx, ecx; xgetbv: which registers the system saves. Instead push 7; pop rax: those of x87, SSE and AVX.
NO_AVX512 = (bytes.fromhex('31c90f01d0'), bytes.fromhex('31c96a0758'))
# mov eax, 7; mov ecx, 1; cpuid: subleaf 1 has AVX-VNNI. Instead subleaf 63, which has nothing.
NO_VNNI = (bytes.fromhex('b807000000b9010000000fa2'), bytes.fromhex('b807000000b93f0000000fa2'))
KINDS = {'AVX-512 VNNI': [], 'AVX-VNNI': [NO_AVX512], 'AVX2': [NO_AVX512, NO_VNNI]}
SIZE, TOKENS, QUERY, LIST, TOGETHER = 2, 170, 16, 32, 6


def hide(folder, changes):
    """A copy of the package for PYTHONPATH; how many feature tests were changed."""
    shutil.copytree(pathlib.Path(ort.__file__).parent, folder / 'onnxruntime')
    [library] = (folder / 'onnxruntime/capi').glob('onnxruntime_pybind11_state*.so')
    code, count = library.read_bytes(), 0
    for test, answer in changes:
        count += code.count(test)
        if test not in code:
            sys.exit(f'{library.name}: this build of onnxruntime {ort.__version__} looks for features in another way')
        code = code.replace(test, answer)
    library.write_bytes(code)
    return count


def lists_of(count):
    """Queries, being beginnings of paragraphs, with the rest of the paragraph, others of its file, and others."""
    files = []
    for path in sorted((HERE / 'node_modules').glob('*/README.md')):
        blocks = re.split(r'\n\s*\n', path.read_text(errors='ignore'))
        plain = [' '.join(re.sub(r'[`*_#>|]|!?\[|\]\([^)]*\)', ' ', b).split()) for b in blocks if '    ' not in b and '```' not in b]
        plain = [b for b in plain if 30 <= len(b.split()) <= 150]
        if len(plain) >= LIST // 4:
            files.append(plain)
    rng, lists = np.random.default_rng(22), []
    for i in range(count):
        own = files[i * len(files) // count]
        first, *others = (own[j] for j in rng.permutation(len(own))[:LIST // 2])
        words = first.split()
        far = [own[rng.integers(len(own))] for own in (files[j] for j in rng.integers(len(files), size=LIST - 1 - len(others)))]
        lists.append((' '.join(words[:12]), [' '.join(words[12:]), *others, *far]))
    return lists


class Child:
    """Runs with one kind of library; answers each line of standard input with one of JSON."""

    def open(self, model, dtype):
        from tokenizers import Tokenizer
        folder = HERE / f'models/rankmill-{model}'
        manifest = json.loads((folder / 'rankmill.json').read_text())
        self.pairs = manifest['kind'] == 'cross-encoder'
        self.tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256, strategy='longest_first')
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self.session = ort.InferenceSession(str(folder / manifest['dtypes'][dtype]), options, providers=['CPUExecutionProvider'])
        ids = np.random.default_rng(1).integers(2000, 20000, (SIZE, TOKENS))
        ids[:, 0], ids[:, -1] = 101, 102
        self.feed = {'input_ids': ids, 'attention_mask': np.ones_like(ids), 'token_type_ids': np.zeros_like(ids)}
        if self.pairs:
            self.feed['input_ids'][:, QUERY], self.feed['token_type_ids'][:, QUERY + 1:] = 102, 1
        return [self.time() for _ in range(3)]

    def time(self):
        began = time.process_time()
        self.session.run(None, self.feed)
        return (time.process_time() - began) / SIZE * 1000

    def run(self, encoded):
        feed = {name: np.zeros((len(encoded), max(len(e.ids) for e in encoded)), np.int64) for name in self.feed}
        for r, e in enumerate(encoded):
            n = len(e.ids)
            feed['input_ids'][r, :n], feed['attention_mask'][r, :n], feed['token_type_ids'][r, :n] = e.ids, 1, e.type_ids
        return self.session.run(['logits' if self.pairs else 'sentence_embedding'], feed)[0]

    def score(self, count, size):
        """Scores in batches of some size, padded."""
        scores = []
        for query, passages in lists_of(count):
            texts = [(query, p) for p in passages] if self.pairs else [query, *passages]
            encoded = self.tokenizer.encode_batch(texts)
            found = np.concatenate([self.run(encoded[i:i + size]) for i in range(0, len(encoded), size)])
            scores.append((found[:, 0] if self.pairs else found[1:] @ found[0]).tolist())
        return scores


def answer(child, *asked):
    child.stdin.write(json.dumps(asked) + '\n')
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def correlation(a, b):
    """Of ranks, the mean over the lists."""
    ranks = lambda values: np.argsort(np.argsort(values))
    return np.mean([np.corrcoef(ranks(x), ranks(y))[0, 1] for x, y in zip(a, b)])


def noise(a, b):
    """How far a list's scores are off, as a share of how they vary."""
    return np.mean([np.std(x - y) / np.std(x) for x, y in zip(a, b)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--models', default='small,nano,filter')
    parser.add_argument('--rounds', type=int, default=16)
    parser.add_argument('--lists', type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = {kind: pathlib.Path(temporary, str(i)) for i, kind in enumerate(KINDS)}
        changed = {kind: hide(paths[kind], changes) for kind, changes in KINDS.items()}
        cpu = re.search(r'cpu family\s*: (\d+).*?model name\s*: ([^\n]*)', pathlib.Path('/proc/cpuinfo').read_text(), re.S)
        print(f'# {cpu[2]}, family {cpu[1]}, load {os.getloadavg()[0]:.1f}, onnxruntime {ort.__version__}, feature tests changed: {changed}')
        for model in given.models.split(','):
            compare(model, paths, given.rounds, given.lists)


def compare(model, paths, rounds, lists):
    runs = {(kind, dtype): subprocess.Popen([sys.executable, __file__, '--child'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            env={**os.environ, 'PYTHONPATH': str(path)}) for kind, path in paths.items() for dtype in ('fp32', 'int8')}
    for (_, dtype), child in runs.items():
        answer(child, 'open', model, dtype)
    times = {run: [] for run in runs}
    for _ in range(rounds):
        for run, child in runs.items():
            times[run].append(answer(child, 'time'))
    alone = {run: np.array(answer(child, 'score', lists, 1)) for run, child in runs.items()}
    moved = {run: np.abs(np.array(answer(child, 'score', lists, TOGETHER)) - alone[run]).max() for run, child in runs.items()}
    for child in runs.values():
        child.stdin.close()
        child.wait()
    whole = next(iter(KINDS))
    for kind in KINDS:
        fp32, int8 = (min(times[kind, dtype]) for dtype in ('fp32', 'int8'))
        here, there = alone[kind, 'int8'], alone[whole, 'int8']
        line = f'{model:7} {kind:13} fp32 {fp32:6.2f} ms, int8 {int8:6.2f} ms: {fp32 / int8:.2f} times'
        line += f'; int8 to fp32: rank correlation {correlation(alone[kind, "fp32"], here):.4f}, noise {noise(alone[kind, "fp32"], here):.4f}'
        line += f'; int8 to that of {whole}: {correlation(there, here):.4f}, noise {noise(there, here):.4f}, at most {np.abs(there - here).max():.2g}'
        line += f'; fp32 to that: at most {np.abs(alone[whole, "fp32"] - alone[kind, "fp32"]).max():.2g}'
        print(f'{line}; alone and in sixes: fp32 {moved[kind, "fp32"]:.2g}, int8 {moved[kind, "int8"]:.2g}', flush=True)


if __name__ == '__main__':
    if '--child' in sys.argv:
        child = Child()
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(child, name)(*arguments)), flush=True)
    else:
        main()
