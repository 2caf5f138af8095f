"""The files of a model folder, all made from one state: the weights as the fp32 graph, the master, keeps them.

    python master.py ../models/rankmill-small …           writes every other format again from the committed master
    python master.py --check ../models/rankmill-small …   only says whether that would change a byte

No training, no texts and no downloads: numpy and onnx are enough.
"""
import base64
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from graph import Shared
from networks import write_bi_encoder, write_cross_encoder

DTYPES = {'int8': 'onnx/model_int8.onnx', 'fp32': 'onnx/model.onnx', 'fp16': 'onnx/model_fp16.onnx'}


def stage_file(layer, dtype):
    return f'onnx/stage_{layer}{"" if dtype == "fp32" else "_" + dtype}.onnx'


def rounded(state):
    """The state as files keep it, so that what is made from files is the same to the byte."""
    result = {}
    for name, value in state.items():
        value = np.asarray(value.detach().cpu() if hasattr(value, 'detach') else value)
        if value.dtype != np.int8:
            value = (value.astype(np.float16) if value.size >= 4096 and not name.endswith('scales') else value).astype(np.float32)
        result[name] = value
    return result


def write_graphs(folder, state, kind, layers, exits=()):
    """All formats; int8 stands alone, the others refer to weights that lie in the files before them."""
    state, shared = rounded(state), Shared()
    for dtype, file in DTYPES.items():
        if kind == 'bi-encoder':
            write_bi_encoder(folder / file, state, layers, dtype, shared=shared)
        else:
            write_cross_encoder(folder / file, state, list(exits), dtype, shared=shared)
    for dtype in ('fp32', 'int8') if len(exits) > 1 else ():
        before = 0
        for layer in exits:
            write_cross_encoder(folder / stage_file(layer, dtype), state, list(exits), dtype, first=before, last=layer, shared=shared)
            before = layer


def read_state(folder):
    """The state that write_graphs was given, from the fp32 files, and steps and rounding from the int8 ones."""
    state = {}
    for file in sorted((folder / 'onnx').glob('*.onnx')):
        is_int8 = file.stem.endswith('_int8')
        if not is_int8 and file.name != 'model.onnx' and not (file.name.startswith('stage_') and file.stem.count('_') == 1):
            continue
        model = onnx.load(file, load_external_data=False)
        external_data_helper.load_external_data_for_model(model, str(file.parent))
        for entry in model.metadata_props if is_int8 else ():
            state[entry.key] = np.frombuffer(base64.b64decode(entry.value), '<f4')
        for tensor in model.graph.initializer:
            name, value = tensor.name, numpy_helper.to_array(tensor)
            if name.startswith('constant_') or (is_int8 and (name == 'words.scale' or not name.endswith(('.q', '.scale')))):
                continue
            name = name.removesuffix('.half')
            if name in ('words', 'words.scale'):
                state['embedding.words' if name == 'words' else 'embedding.scales'] = value
            elif name.endswith('.gates'):
                state[name.removesuffix('s')] = np.ascontiguousarray(-value.T[:2])
            elif name == 'overlap.idf':
                state[name] = value.reshape(-1, 1)
            elif name.endswith('.T'):
                state[name.removesuffix('.T')] = np.ascontiguousarray(value.T)
            else:
                state[name] = value
    return state


def kept_shape(folder):
    """(kind, layers, exits, state) of a model's folder."""
    manifest, state = json.loads((folder / 'rankmill.json').read_text()), read_state(folder)
    layers = 1 + max(int(name.split('.')[1]) for name in state if name.startswith('layers.'))
    exits = [e['layer'] for e in manifest.get('exits', [])] or ([layers] if manifest['kind'] == 'cross-encoder' else [])
    return manifest['kind'], layers, exits, state


def digests(folder):
    """What rankmill.json says of the files, so that one of another version is not read without a complaint."""
    return {f'onnx/{p.name}': hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob('onnx/*.onnx'))}


def rebuild(folder, into):
    kind, layers, exits, state = kept_shape(folder)
    write_graphs(into, state, kind, layers, exits)


def main():
    check = '--check' in sys.argv
    wrong = []
    for folder in [Path(name) for name in sys.argv[1:] if not name.startswith('--')]:
        with tempfile.TemporaryDirectory() as scratch:
            rebuild(folder, Path(scratch))
            for made in sorted(Path(scratch, 'onnx').iterdir()):
                target = folder / 'onnx' / made.name
                same = target.exists() and target.read_bytes() == made.read_bytes()
                print(f'{target}: {"as it was" if same else "differs" if check else "written"}')
                if not same and check:
                    wrong.append(target)
                elif not same:
                    target.write_bytes(made.read_bytes())
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
