"""Golden scores: what sentence-transformers' CrossEncoder (ONNX backend) gives for models/rankmill-small in fp32.

Writes test/golden/cross-encoder-scores.json. Needs `pip install "sentence-transformers[onnx]"`.
"""
import json

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from settings import HERE, MODELS

QUERIES = [
    'how do I retry a failed job', 'what keeps a queue from losing work when a worker dies', 'red fruit', 'καφές', '东京的天气',
    'what does [SEP] do in the middle of a question', 'résumé naïveté 🙂',
]
PASSAGES = [
    '', 'job', 'Failed jobs can be tried again with job.retry(); the number of attempts and the back-off are options.',
    'A worker that dies loses its lock, and another worker takes the job after the lock has run out.',
    'Apples, cherries and strawberries are red.', 'Der Kaffee steht auf dem Tisch. Ο καφές είναι ζεστός.', '东京今天晴，气温二十度。',
    'text with [SEP] and [CLS] and [MASK] in it', '👩‍👩‍👧‍👦 family, flag 🇫🇷, e\u0301 and \u200bzero width', 'tab\tnew\nline \x00 control \x07 end',
    ' '.join(f'word{i % 97} of a very long passage' for i in range(1700)),
]


def main():
    model = CrossEncoder(str(MODELS / 'rankmill-small'), backend='onnx', model_kwargs={'file_name': 'model.onnx', 'provider': 'CPUExecutionProvider'},
                         max_length=512, device='cpu')
    pairs = [(query, passage) for query in QUERIES for passage in PASSAGES]
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=8)
    scores = model.predict(pairs, batch_size=8)
    assert np.allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-6), 'the default activation is not the sigmoid'
    golden = {'passages': PASSAGES[:-1], 'long_passage': {'words': 1700}, 'queries': QUERIES,
              'scores': [[float(s) for s in row] for row in scores.reshape(len(QUERIES), len(PASSAGES))]}
    path = HERE.parent / 'test/golden/cross-encoder-scores.json'
    path.write_text(json.dumps(golden, ensure_ascii=True, indent=1) + '\n')
    print(len(pairs), 'pairs')


if __name__ == '__main__':
    main()
