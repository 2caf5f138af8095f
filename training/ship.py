"""Writes models/rankmill-small from the trained weights: graphs, tokeniser, configuration.

    python ship.py [folder]
"""
import json
import random
import sys
from pathlib import Path

import torch

from encode import batch_of, load_lists
from graph import write_cross_encoder
from model import CrossEncoder
from settings import CACHE, MODELS, base_folder

CONFIG = {
    'architectures': ['BertForSequenceClassification'], 'model_type': 'bert', 'num_labels': 1,
    'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0},
    'hidden_size': 384, 'num_hidden_layers': 6, 'num_attention_heads': 12, 'intermediate_size': 1536, 'hidden_act': 'gelu',
    'max_position_embeddings': 512, 'type_vocab_size': 2, 'vocab_size': 30522, 'layer_norm_eps': 1e-12, 'pad_token_id': 0,
    'sentence_transformers': {'activation_fn': 'torch.nn.modules.activation.Sigmoid'},
}
MANIFEST = {
    'name': 'rankmill-small', 'version': '0.1.0', 'kind': 'cross-encoder', 'licence': 'Apache-2.0', 'language': 'en',
    'dtypes': {'fp32': 'onnx/model.onnx', 'int8': 'onnx/model_int8.onnx'}, 'default_dtype': 'int8', 'max_tokens': 512,
    'batch_invariant': {'fp32': True, 'int8': True},
}
TOKENIZER_CONFIG = {
    'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'model_max_length': 512, 'pad_token': '[PAD]',
    'cls_token': '[CLS]', 'sep_token': '[SEP]', 'mask_token': '[MASK]', 'unk_token': '[UNK]',
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + '\n')


def centre(state, exits, layers):
    """Shifts each head's bias, so that a score of 0 lies halfway between a query's own passage and the other candidates.

    The losses see differences within a list only, so where the scores lie is left to chance; a sigmoid needs them around 0.
    """
    passages, queries, _, held = load_lists()
    model = CrossEncoder(layers, tuple(exits))
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        batches = [batch_of(held[a:a + 10], passages, queries, 8, 160, random.Random(a)) for a in range(0, 100, 10)]
        for k, scores in enumerate(zip(*(model(ids, mask, types) for ids, mask, types, _ in batches))):
            lists = torch.cat(scores).view(-1, 8)
            shift = (lists[:, 0].mean() + lists[:, 1:].mean()) / 2
            state[f'heads.{k}.linear.bias'] -= shift
            print(f'exit {exits[k]}: own {lists[:, 0].mean():.2f}, others {lists[:, 1:].mean():.2f}, shifted by {-shift:.2f}')


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS / 'rankmill-small'
    trained = torch.load(CACHE / 'small.pt', map_location='cpu', weights_only=False)
    state, exits = trained['average'], list(trained['exits'])
    centre(state, exits, trained['layers'])
    write_cross_encoder(folder / 'onnx/model.onnx', state, exits)
    write_cross_encoder(folder / 'onnx/model_int8.onnx', state, exits, int8=True)
    # The tokeniser without the padding and truncation that sentence-transformers saves in it: loaders set their own.
    tokenizer = json.loads((base_folder() / 'tokenizer.json').read_text())
    write_json(folder / 'tokenizer.json', {**tokenizer, 'padding': None, 'truncation': None})
    write_json(folder / 'tokenizer_config.json', TOKENIZER_CONFIG)
    write_json(folder / 'special_tokens_map.json', {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith('_token')})
    write_json(folder / 'config.json', CONFIG)
    write_json(folder / 'rankmill.json', MANIFEST)
    print(f'step {trained["step"]}, {trained["pairs"]} pairs:', *(f'{p.name} {p.stat().st_size / 1e6:.1f} MB' for p in folder.glob('onnx/*')))


if __name__ == '__main__':
    main()
