"""Writes a model's folder from its trained weights: graphs in every format, exits, tokeniser, configuration, card.

    python ship.py small|nano|filter [--checkpoint .cache/small.pt] [--folder ../models/rankmill-small]
"""
import argparse
import json
import random
import shutil
from pathlib import Path

import torch

from cards import write_card
from encode import load_lists
from filter import trained_bi_encoder
from master import DTYPES, digests, rounded, stage_file, write_graphs
from model import HEAD, HEADS, INNER, CrossEncoder, go_back
from settings import CACHE, DEVICE, MODELS, TAUGHT_BY, base_folder
from steps import measure
from train import begun_with

VERSION = '0.7.0'  # of what is trained next
TOKENIZER_CONFIG = {
    'tokenizer_class': 'BertTokenizer', 'do_lower_case': True, 'model_max_length': 512, 'pad_token': '[PAD]',
    'cls_token': '[CLS]', 'sep_token': '[SEP]', 'mask_token': '[MASK]', 'unk_token': '[UNK]',
}


def config_of(kind, layers, inner, heads):
    bert = {'model_type': 'bert', 'hidden_size': 384, 'num_hidden_layers': layers, 'num_attention_heads': heads, 'head_dim': HEAD, 'intermediate_size': inner,
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


def finish(model, exits):
    """Shifts each head's bias, so that a score of 0 lies halfway between a query's own passage and the other candidates; gives the state.

    The losses see differences within a list only, so where the scores lie is left to chance; a sigmoid needs them around 0.
    """
    lists, _, held = load_lists()
    model.eval().to(DEVICE)
    batch = lambda rows, candidates, seed: lists.pairs(rows, lists.draw(rows, candidates, random.Random(seed))[0], 160)
    with torch.no_grad():
        batches = [batch(held[a:a + 10], 8, a) for a in range(0, min(100, len(held)), 10)]
        for k, scores in enumerate(zip(*(model(*batch) for batch in batches))):
            ranked = torch.cat(scores).view(-1, 8)
            shift = (ranked[:, 0].mean() + ranked[:, 1:].mean()) / 2
            model.heads[k].linear.bias -= shift
            print(f'exit {exits[k]}: own {ranked[:, 0].mean():.2f}, others {ranked[:, 1:].mean():.2f}, shifted by {-shift:.2f}')
    return model.state_dict()


def figures_of(trained, unit):
    """What a model was trained on, and what the one before, that it went on from."""
    return {'step': trained['step'], unit: trained['seen'], 'teachers': trained.get('teachers', list(TAUGHT_BY)), **({'after': trained['after']} if trained.get('after') else {})}


def trained_state(checkpoint, back):
    """(kind, state, layers, inner, heads, exits, training figures) of a checkpoint of filter.py, distil.py or train.py."""
    trained = torch.load(checkpoint, map_location='cpu', weights_only=False)
    inner, heads = trained.get('inner', INNER), trained.get('heads', HEADS)
    if 'sources' in trained:
        model = trained_bi_encoder(checkpoint)[0].to(DEVICE)
        return 'bi-encoder', model.state_dict(), len(trained['sources']), inner, heads, [], figures_of(trained, 'texts')
    layers, exits = trained['layers'], list(trained['exits'])
    model = CrossEncoder(layers, tuple(exits), inner, heads)
    model.load_state_dict(trained['average'])
    if back:
        go_back(model, begun_with(trained.get('start'), layers, exits), back)
    training = {**figures_of(trained, 'pairs'), **({'back': back} if back else {})}
    return 'cross-encoder', finish(model, exits), layers, inner, heads, exits, training


def manifest_of(folder, name, kind, exits, training, old):
    manifest = {'name': f'rankmill-{name}', 'version': VERSION, 'kind': kind, 'licence': 'Apache-2.0', 'language': 'en',
                'dtypes': {d: DTYPES[d] for d in ('fp32', 'fp16', 'int8')}, 'default_dtype': 'int8', 'max_tokens': 512,
                'batch_invariant': {'fp32': True, 'int8': True}, 'training': training}
    if kind == 'bi-encoder':
        manifest['embedding'] = {'output': 'sentence_embedding', 'dimensions': 384, 'normalised': True}
    if len(exits) > 1:
        manifest['exits'] = [{'layer': e, 'files': {d: stage_file(e, d) for d in ('fp32', 'int8')}} for e in exits]
    manifest['sha256'] = digests(folder)
    # Learned after shipping, and again after the next time.
    return {**manifest, **{key: old[key] for key in ('fusion', 'calibrations') if key in old}}


def main():
    options = argparse.ArgumentParser()
    options.add_argument('name', choices=('small', 'nano', 'filter'))
    options.add_argument('--checkpoint', type=Path)
    options.add_argument('--folder', type=Path)
    options.add_argument('--back', type=float, default=0, help='share by which the layers of a cross-encoder go back to those it began with')
    options = options.parse_args()
    folder = options.folder or MODELS / f'rankmill-{options.name}'
    kind, state, layers, inner, heads, exits, training = trained_state(options.checkpoint or CACHE / f'{options.name}.pt', options.back)
    shutil.rmtree(folder / 'onnx', ignore_errors=True)
    # The tokeniser without the padding and truncation that sentence-transformers saves in it: loaders set their own.
    tokenizer = json.loads((base_folder() / 'tokenizer.json').read_text())
    write_json(folder / 'tokenizer.json', {**tokenizer, 'padding': None, 'truncation': None})
    pairs = json.loads((CACHE / 'data/pairs.json').read_text())
    write_graphs(folder, {**state, **measure(folder, rounded(state), kind, layers, exits, pairs)}, kind, layers, exits)
    write_json(folder / 'tokenizer_config.json', TOKENIZER_CONFIG)
    write_json(folder / 'special_tokens_map.json', {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith('_token')})
    write_json(folder / 'config.json', config_of(kind, layers, inner, heads))
    if kind == 'bi-encoder':
        write_sentence_transformers(folder)
    manifest = folder / 'rankmill.json'
    old = json.loads(manifest.read_text()) if manifest.exists() else {}
    write_json(manifest, manifest_of(folder, options.name, kind, exits, training, old))
    write_card(folder)
    print(training, *(f'{p.name} {p.stat().st_size / 1e6:.2f} MB' for p in sorted(folder.glob('onnx/*'))))


if __name__ == '__main__':
    main()
