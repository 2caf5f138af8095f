"""sentence-transformers' CrossEncoder on the pairs that bench/gpu.ts wrote: pairs a second and scores, as JSON lines.

    python3 bench/gpu-peer.py TEXTS.json FOLDER DEVICE fp16 [seconds for each length] [lengths, divided by commas]

Batch sizes of 32 (its default) to 512; the fastest counts. Model loading is not counted, tokenising is.
"""
import json
import pathlib
import sys
import time

import torch
from sentence_transformers import CrossEncoder

SIZES = (32, 128, 512)


def main():
    texts, folder, device, dtype = sys.argv[1:5]
    seconds = float(sys.argv[5]) if len(sys.argv) > 5 else 2
    lengths = sys.argv[6].split(',') if len(sys.argv) > 6 else None
    kinds = {'fp16': torch.float16, 'fp32': torch.float32}
    model = CrossEncoder(folder, device=device, max_length=512, model_kwargs={'dtype': kinds[dtype]})
    for length, pairs in json.loads(pathlib.Path(texts).read_text()).items():
        if lengths and length not in lengths:
            continue
        found = {}
        for size in SIZES:
            if size > len(pairs):
                continue
            scores = model.predict(pairs[:size], batch_size=size, show_progress_bar=False)
            began, done = time.monotonic(), 0
            while True:
                batch = [pairs[(done + i) % len(pairs)] for i in range(4 * size)]
                model.predict(batch, batch_size=size, show_progress_bar=False)
                done += len(batch)
                if time.monotonic() - began > seconds:
                    break
            found[size] = done / (time.monotonic() - began)
        best = max(found, key=found.get)
        print(json.dumps({'what': 'sentence-transformers', 'model': pathlib.Path(folder).name, 'dtype': dtype, 'device': device, 'tokens': int(length), 'sessions': 1,
                          'pairsPerCall': best, 'pairsPerSecond': round(found[best], 1), 'scores': [round(float(s), 5) for s in scores[:8]]}), flush=True)


if __name__ == '__main__':
    main()
