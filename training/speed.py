"""CPU time of every model and number format, one thread, batches of 4; figures go to results.json.

    python speed.py

CPU time and the best of several rounds, so that other work on the machine matters little.
"""
import json
import time

import numpy as np

from evaluate import BATCH, session
from settings import CACHE, HERE, MODELS

TOKENS, QUERY = 128, 16
ROUNDS = 40


def milliseconds(run, size=BATCH):
    for _ in range(3):
        run()
    best = np.inf
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return round(best / size * 1000, 3)


def feed_of(pairs):
    ids = np.random.default_rng(1).integers(2000, 20000, (BATCH, TOKENS))
    ids[:, 0], ids[:, -1] = 101, 102
    types = np.zeros_like(ids)
    if pairs:
        ids[:, QUERY], types[:, QUERY + 1:] = 102, 1
    return {'input_ids': ids, 'attention_mask': np.ones_like(ids), 'token_type_ids': types}


def main():
    found = {}
    if (CACHE / 'minilm.onnx').exists():
        run, feed = session(CACHE / 'minilm.onnx'), feed_of(False)
        found['all-MiniLM-L6-v2 fp32'] = milliseconds(lambda: run.run(None, {i.name: feed[i.name] for i in run.get_inputs()}))
    for folder in sorted(MODELS.glob('rankmill-*')):
        manifest = json.loads((folder / 'rankmill.json').read_text())
        feed = feed_of(manifest['kind'] == 'cross-encoder')
        for dtype in ('fp32', 'int8'):
            run = session(folder / manifest['dtypes'][dtype])
            found[f'{manifest["name"]} {dtype}'] = milliseconds(lambda: run.run(None, feed))
            last = feed
            for exit in manifest.get('exits', []):
                stage = session(folder / exit['files'][dtype])
                found[f'{manifest["name"]} {dtype} stage to layer {exit["layer"]}'] = milliseconds(lambda: stage.run(None, last))
                outputs = dict(zip([o.name for o in stage.get_outputs()], stage.run(None, last)))
                last = {**feed, **{k: v for k, v in outputs.items() if k != 'logits'}}
    path = HERE / 'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    results['speed'] = {row: {'ms': ms, 'tokens': TOKENS} for row, ms in found.items()}
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
    for row, ms in found.items():
        print(f'{row:44} {ms:8.2f} ms')


if __name__ == '__main__':
    main()
