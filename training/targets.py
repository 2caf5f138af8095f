"""What rankmill-small says of lists, computed once, for trainings that see each pair several times (`student.py --targets`).

    python targets.py [--lists 24000] [--threads 2]

With the int8 graph that ships, in ONNX Runtime: on a CPU two to three times as fast as small's own pass in a training. Of each list the
own passage, and others by chance. Writes .cache/data/targets-….jsonl, named by the lists that it is of, a line for each as it is done,
[list, passages, scores]; goes on where it was stopped.
"""
import argparse
import json
import random
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import torch

from encode import load_lists, on_device, pairs_of
from settings import CACHE, MODELS, SEED

CAP = 160  # tokens a pair
CANDIDATES = 12
BLOCK = 8  # lists whose pairs are batched by length


def path_of_targets():
    """By what it is of: lists that are made again must not find these, which name them by number."""
    return CACHE / f'data/targets-{zlib.crc32((CACHE / "data/lists.json").read_bytes()):08x}.jsonl'


def load_targets(lists, train):
    """(Those of the lists `train` that have targets, their passages [lists, candidates], scores [lists, candidates])."""
    allowed, found = set(train.tolist()), [json.loads(line) for line in open(path_of_targets())]
    rows, read, scores = zip(*(one for one in found if one[0] in allowed))
    return on_device(rows), on_device(read), torch.tensor(scores, device=lists.picked.device)


def main():
    # Trainings on a GPU read this file without ONNX Runtime.
    from evaluate import BATCH, session
    options = argparse.ArgumentParser()
    options.add_argument('--lists', type=int, default=24_000)
    options.add_argument('--threads', type=int, default=2)
    options = options.parse_args()
    torch.set_num_threads(1)
    lists, train, _ = load_lists()
    train = train[lists.counts[train] >= CANDIDATES].tolist()
    path = path_of_targets()
    done = {json.loads(line)[0] for line in open(path)} if path.exists() else set()
    wanted = [row for row in random.Random(SEED).sample(train, min(options.lists, len(train))) if row not in done]
    model = session(MODELS / 'rankmill-small/onnx/model_int8.onnx')

    def scored(rows):
        read, _ = lists.draw(on_device(rows), CANDIDATES, random.Random(SEED * 1_000_003 + rows[0]))
        ids, mask, types = pairs_of(lists.queries, on_device(rows).repeat_interleave(read.shape[1]), lists.passages, read.reshape(-1), CAP)
        lengths, scores = mask.sum(1), torch.zeros(len(ids))
        for some in lengths.argsort().split(BATCH):
            longest = int(lengths[some].max())
            feed = {name: values[some, :longest].numpy() for name, values in (('input_ids', ids), ('attention_mask', mask), ('token_type_ids', types))}
            scores[some] = torch.from_numpy(model.run(None, feed)[0][:, 0])
        return [[row, *one] for row, *one in zip(rows, read.tolist(), [[round(v, 4) for v in own] for own in scores.view(read.shape).tolist()])]

    began, count = time.monotonic(), 0
    with open(path, 'a') as file, ThreadPoolExecutor(options.threads) as pool:
        for found in pool.map(scored, [wanted[a:a + BLOCK] for a in range(0, len(wanted), BLOCK)]):
            file.writelines(json.dumps(line) + '\n' for line in found)
            file.flush()
            count += len(found)
            if count % (64 * BLOCK) == 0:
                print(f'{count} of {len(wanted)} lists, {count * CANDIDATES / (time.monotonic() - began):.1f} pairs/s', flush=True)
    print(len(done) + count, 'lists')


if __name__ == '__main__':
    main()
