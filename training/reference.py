"""What sentence-transformers' CrossEncoder makes of pairs: the reference that `rankmill models add` compares a model with.

    pip install -r export-requirements.txt
    echo '[["a query", "a document"]]' | python reference.py FOLDER

Pairs come as JSON on standard input; a line of JSON on standard output has, for each, the logits of all labels and the scores
(what `predict` gives). A fault ends with 3, a missing package with 4, each with one line on standard error.
"""
import json
import os
import sys
import warnings

os.environ |= {'HF_HUB_OFFLINE': '1', 'TQDM_DISABLE': '1', 'TRANSFORMERS_VERBOSITY': 'error', 'TOKENIZERS_PARALLELISM': 'false'}
warnings.filterwarnings('ignore')

try:
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
except ImportError as missing:
    sys.exit(print(f'{sys.executable}: {missing}', file=sys.stderr) or 4)

BATCH = 8


def rows(values, count):
    return [[float(value) for value in row] for row in values.reshape(count, -1)]


def main():
    pairs = [tuple(pair) for pair in json.load(sys.stdin)]
    try:
        model = CrossEncoder(sys.argv[1], device='cpu', local_files_only=True, trust_remote_code=False, model_kwargs={'dtype': torch.float32})
        predict = lambda **more: rows(model.predict(pairs, batch_size=BATCH, show_progress_bar=False, **more), len(pairs))  # noqa: E731
        logits, scores = predict(activation_fn=torch.nn.Identity()), predict()
    except Exception as fault:
        lines = str(fault).strip().splitlines() or ['']
        sys.exit(print(f'{sys.argv[1]}: {type(fault).__name__}: {lines[0]}', file=sys.stderr) or 3)
    versions = {'sentence-transformers': sentence_transformers.__version__, 'transformers': transformers.__version__, 'torch': torch.__version__}
    print(json.dumps({'logits': logits, 'scores': scores, 'activation': type(model.activation_fn).__name__, 'versions': versions}))


if __name__ == '__main__':
    main()
