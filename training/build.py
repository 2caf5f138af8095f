"""Makes all models from nothing, or goes on where it was stopped: data, teacher, training, export, figures, cards.

    python build.py [--minutes 200] [--go-on] [--collections FOLDER…]

Every step is a command of its own and skips what is there; `.cache` holds what lies between. `--minutes` is for rankmill-small's
training on a CPU; the filter takes a quarter of it and a bit, nano a quarter. A GPU is used where there is one.
"""
import argparse
import subprocess
import sys

from settings import CACHE, DEVICE, HERE, MODELS


def step(*command):
    print('#', *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=HERE)


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--minutes', type=float, default=200)
    options.add_argument('--go-on', action='store_true', help='begin with the weights that ship')
    options.add_argument('--collections', nargs='*', default=[], help='BEIR-style folders to evaluate on')
    options.add_argument('--queries', type=int, help='at most so many of each collection')
    options = options.parse_args()
    if not (CACHE / 'data/pairs.json').exists():
        step('data.py')
    if not (CACHE / 'data/lists.json').exists():
        step('teacher.py', *(('--times', 8) if DEVICE == 'cuda' else ()))
    part, start = options.minutes / 4, ['--go-on'] if options.go_on else []
    # Each goes on from its checkpoint until its minutes are spent.
    step('train.py', 'small', '--minutes', options.minutes, *start)
    step('distil.py', '--minutes', part, *start)
    step('filter.py', '--minutes', part / 4, '--start', 'distilled', '--rate', 2e-4)
    step('train.py', 'nano', '--minutes', part, '--layers', 3, '--heads', 6, '--inner', 576, '--exits', 3, '--start', 'filter', '--rate', 2e-4, *start)
    for name in ('filter', 'nano', 'small'):
        step('ship.py', name, *(('--back', 0.3) if name == 'nano' else ()))
    step('speed.py')
    step('schemes.py')
    step('evaluate.py', *options.collections, *(('--queries', options.queries) if options.queries else ()))
    step('margins.py')
    step('cards.py')
    try:
        step('reference_scores.py')
    except subprocess.CalledProcessError:
        print(f'# {MODELS.parent / "test/golden"} keeps its reference scores: reference_scores.py needs sentence-transformers[onnx]')


if __name__ == '__main__':
    main()
