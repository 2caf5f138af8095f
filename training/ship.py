"""Writes a model's folder from its trained weights: graphs in every format, exits, tokeniser, configuration, card.

    python ship.py small|nano|filter [--checkpoint .cache/small.pt] [--folder ../models/rankmill-small]
"""
import argparse
import hashlib
import json
import random
import shutil
from pathlib import Path

import torch

from cards import write_card
from distil import load_pairs
from encode import batch_of, load_lists
from filter import texts_of
from int8 import measure
from master import DTYPES, stage_file, write_graphs
from model import INNER, BiEncoder, CrossEncoder
from settings import CACHE, MODELS, SEED, TAUGHT_BY, base_folder

VERSION = '0.5.0'
TOKENIZER_CONFIG = {
    'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'model_max_length': 512, 'pad_token': '[PAD]',
    'cls_token': '[CLS]', 'sep_token': '[SEP]', 'mask_token': '[MASK]', 'unk_token': '[UNK]',
}


def config_of(kind, layers, inner):
    bert = {'model_type': 'bert', 'hidden_size': 384, 'num_hidden_layers': layers, 'num_attention_heads': 12, 'intermediate_size': inner,
            'hidden_act': 'gelu', 'max_position_embeddings': 512, 'type_vocab_size': 2, 'vocab_size': 30522, 'layer_norm_eps': 1e-12, 'pad_token_id': 0}
    if kind == 'bi-encoder':
        return {'architectures': ['BertModel'], **bert}
    return {'architectures': ['BertForSequenceClassification'], **bert, 'num_labels': 1, 'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0},
            'sentence_transformers': {'activation_fn': 'torch.nn.modules.activation.Sigmoid'}}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + '\n')


def write_sentence_transformers(folder):
    """What sentence-transformers reads beside config.json: transformer, mean, normalisation."""
    kinds = (('', 'Transformer'), ('1_Pooling', 'Pooling'), ('2_Normalize', 'Normalize'))
    write_json(folder / 'modules.json', [{'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
                                         for i, (path, kind) in enumerate(kinds)])
    write_json(folder / '1_Pooling/config.json', {'word_embedding_dimension': 384, 'pooling_mode_cls_token': False, 'pooling_mode_mean_tokens': True,
                                                  'pooling_mode_max_tokens': False, 'pooling_mode_mean_sqrt_len_tokens': False})
    write_json(folder / 'sentence_bert_config.json', {'max_seq_length': 256, 'do_lower_case': False})
    write_json(folder / 'config_sentence_transformers.json', {'similarity_fn_name': 'cosine'})


def finish(state, exits, layers, inner):
    """Shifts each head's bias, so that a score of 0 lies halfway between a query's own passage and the other candidates; measures channels.

    The losses see differences within a list only, so where the scores lie is left to chance; a sigmoid needs them around 0.
    """
    passages, train, held = load_lists()
    model = CrossEncoder(layers, tuple(exits), inner)
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        batches = [batch_of(held[a:a + 10], passages, 8, 160, random.Random(a)) for a in range(0, 100, 10)]
        for k, scores in enumerate(zip(*(model(*(t.cpu() for t in batch[:3])) for batch in batches))):
            lists = torch.cat(scores).view(-1, 8)
            shift = (lists[:, 0].mean() + lists[:, 1:].mean()) / 2
            state[f'heads.{k}.linear.bias'] -= shift
            print(f'exit {exits[k]}: own {lists[:, 0].mean():.2f}, others {lists[:, 1:].mean():.2f}, shifted by {-shift:.2f}')
    state.update(measure(model, [batch_of(train[a:a + 3], passages, 6, 160, random.Random(a))[:3] for a in range(0, 36, 3)]))


def figures_of(trained, unit):
    """What a model was trained on, and what the one before, that it went on from."""
    return {'step': trained['step'], unit: trained['seen'], 'teachers': trained.get('teachers', list(TAUGHT_BY)), **({'after': trained['after']} if trained.get('after') else {})}


def trained_state(checkpoint):
    """(kind, state, layers, inner, exits, training figures) of a checkpoint of filter.py or train.py."""
    trained = torch.load(checkpoint, map_location='cpu', weights_only=False)
    inner = trained.get('inner', INNER)
    if 'sources' in trained:
        layers = len(trained['sources'])
        model = BiEncoder(layers, inner)
        model.embedding.thaw()
        model.load_state_dict(trained['average'])
        model.embedding.freeze()
        passages = [passage for *_, passage in random.Random(SEED).sample(load_pairs()[0], 160)]
        smooth = measure(model, [texts_of(passages[a:a + 16], 160) for a in range(0, 160, 16)])
        return 'bi-encoder', {**model.state_dict(), **smooth}, layers, inner, [], figures_of(trained, 'texts')
    layers = trained['layers']
    state, exits = trained['average'], list(trained['exits'])
    finish(state, exits, layers, inner)
    return 'cross-encoder', state, layers, inner, exits, figures_of(trained, 'pairs')


def manifest_of(folder, name, kind, exits, training, old):
    manifest = {'name': f'rankmill-{name}', 'version': VERSION, 'kind': kind, 'licence': 'Apache-2.0', 'language': 'en',
                'dtypes': {d: DTYPES[d] for d in ('fp32', 'fp16', 'int8')}, 'default_dtype': 'int8', 'max_tokens': 512,
                'batch_invariant': {'fp32': True, 'int8': True}, 'training': training}
    if kind == 'bi-encoder':
        manifest['embedding'] = {'output': 'sentence_embedding', 'dimensions': 384, 'normalised': True}
    if len(exits) > 1:
        manifest['exits'] = [{'layer': e, 'files': {d: stage_file(e, d) for d in ('fp32', 'int8')}} for e in exits]
    manifest['sha256'] = {f'onnx/{p.name}': hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob('onnx/*.onnx'))}
    # Learned after shipping, and again after the next time.
    return {**manifest, **{key: old[key] for key in ('fusion', 'calibrations') if key in old}}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('name', choices=('small', 'nano', 'filter'))
    options.add_argument('--checkpoint', type=Path)
    options.add_argument('--folder', type=Path)
    options = options.parse_args()
    folder = options.folder or MODELS / f'rankmill-{options.name}'
    kind, state, layers, inner, exits, training = trained_state(options.checkpoint or CACHE / f'{options.name}.pt')
    shutil.rmtree(folder / 'onnx', ignore_errors=True)
    write_graphs(folder, state, kind, layers, exits)
    # The tokeniser without the padding and truncation that sentence-transformers saves in it: loaders set their own.
    tokenizer = json.loads((base_folder() / 'tokenizer.json').read_text())
    write_json(folder / 'tokenizer.json', {**tokenizer, 'padding': None, 'truncation': None})
    write_json(folder / 'tokenizer_config.json', TOKENIZER_CONFIG)
    write_json(folder / 'special_tokens_map.json', {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith('_token')})
    write_json(folder / 'config.json', config_of(kind, layers, inner))
    if kind == 'bi-encoder':
        write_sentence_transformers(folder)
    manifest = folder / 'rankmill.json'
    old = json.loads(manifest.read_text()) if manifest.exists() else {}
    write_json(manifest, manifest_of(folder, options.name, kind, exits, training, old))
    write_card(folder)
    print(training, *(f'{p.name} {p.stat().st_size / 1e6:.2f} MB' for p in sorted(folder.glob('onnx/*'))))


if __name__ == '__main__':
    main()
