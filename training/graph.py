"""ONNX graphs, node by node, in three number formats, with weights that files of one folder share.

By hand, because an exporter would give four times the nodes and no say in how int8 is computed.

fp32: weights are stored as fp16 with a Cast that ONNX Runtime folds when it loads, so this file is also the master that all
else is made from. fp16: the same weights without the Cast. int8: steps of activations are part of the model, so a pair's score
cannot depend on its neighbours or on padding; what makes that accurate is in `int8.py`.
"""
import base64
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantize import by_column

OPSET = [helper.make_opsetid('', 17), helper.make_opsetid('com.microsoft', 1)]
CONTRIB = {'MatMulIntegerToFloat', 'MultiHeadAttention', 'SkipLayerNormalization', 'BiasGelu', 'Gelu'}
SHARED_BYTES = 4096  # smaller weights are not worth a reference
ALIGNED_BYTES = 64


@dataclass
class Int8:
    """How linear layers are computed in int8; names are those of the products, as `layers.0.up`."""
    wide: tuple = ()  # names that stay in fp32
    rounding: object = None  # (name, weight) -> weight in int8, scale of each column, what the bias takes back; by_column without


class Graph:
    """Nodes and weights in the making; methods named as operators return the name of their output."""

    def __init__(self, state, dtype='fp32', int8=None):
        self.state = {k: v.detach().cpu().numpy() if hasattr(v, 'detach') else v for k, v in state.items()}
        self.dtype, self.int8 = dtype, int8 or Int8()
        self.nodes, self.weights, self.made = [], {}, {}
        self.notes = {}  # what the master must know and no node reads

    def op(self, kind, *inputs, out=None, outputs=1, **attributes):
        names = [out or f'{kind.lower()}_{len(self.nodes)}'] if outputs == 1 else [f'{kind.lower()}_{len(self.nodes)}_{i}' for i in range(outputs)]
        domain = 'com.microsoft' if kind in CONTRIB else ''
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, dtype=np.float32):
        value = np.asarray(value, dtype)
        name = f'constant_{value.dtype}_{value.shape}_{value.tobytes().hex()[:48]}'.replace(' ', '')
        self.weights[name] = value
        return name

    def axes(self, *values):
        return self.constant(values, np.int64)

    def weight(self, name, value=None, half=False):
        """A float weight: fp16 in the file, fp32 in use, or fp16 in use too; vectors and scalars keep all their bits, they cost nothing."""
        key = (name, half)
        if key in self.made:
            return self.made[key]
        value = np.ascontiguousarray(self.state[name] if value is None else value)
        if value.size >= 4096:
            self.weights[name + '.half'] = value.astype(np.float16)
            self.made[key] = name + '.half' if half else self.op('Cast', name + '.half', out=name, to=TensorProto.FLOAT)
        else:
            kept = name + '.half' if half else name
            self.weights[kept] = value.astype(np.float16 if half else np.float32)
            self.made[key] = kept
        return self.made[key]

    def linear(self, x, name):
        """x times a weight, and the name of the bias, which the next operator adds."""
        half = self.dtype == 'fp16'
        w = self.state[name + '.weight'].T.astype(np.float16)
        return self.op('MatMul', x, self.weight(name + '.weight.T', w, half)), self.weight(name + '.bias', half=half)

    def product(self, x, name, w, bias=None, zero=128, kinds=None):
        """x in steps times w, [inputs, columns], and bias, through bytes; `kinds` are bytes that follow x's, for the last rows of w.

        Weights have one scale a column. How they were rounded (`rounding.py`) is part of the state, or found now.
        """
        if name in self.int8.wide:
            return self.wide_product(x, name, w, bias, kinds)
        self.weights[name + '.q'], self.weights[name + '.scale'], moved = self.rounded(name, w)
        biases = [] if bias is None else ['', self.weight(name + '.bias.whole', bias + moved)]
        return self.op('MatMulIntegerToFloat', self.in_bytes(x, zero, kinds), name + '.q', self.constant(1), name + '.scale', self.constant(zero, np.uint8), *biases)

    def in_bytes(self, x, zero, kinds):
        key = ('bytes', x, kinds)
        if key not in self.made:
            q = self.op('QuantizeLinear', x, self.constant(1), self.constant(zero, np.uint8)) if kinds is None else self.in_bytes(x, zero, None)
            self.made[key] = q if kinds is None else self.op('Concat', q, kinds, axis=-1)
        return self.made[key]

    def rounded(self, name, w):
        """The weight in int8, its scales, and what rounding takes from the product on average: an addition to the bias."""
        if name + '.q' not in self.state:
            q, scale = by_column(w)
            found = self.int8.rounding(name, w) if self.int8.rounding else (q, scale, np.zeros_like(scale))
            self.state.update(zip((name + '.q', name + '.scale', name + '.moved'), found))
        self.notes[name + '.moved'] = self.state[name + '.moved']
        return [self.state[f'{name}.{part}'] for part in ('q', 'scale', 'moved')]

    def wide_product(self, x, name, w, bias, kinds):
        """The same in fp32, to see what int8 costs."""
        if kinds is not None:
            x = self.op('Concat', x, self.op('Sub', self.op('Cast', kinds, to=TensorProto.FLOAT), self.constant(128)), axis=-1)
        self.weights[name + '.wide'] = w.astype(np.float32)
        y = self.op('MatMul', x, name + '.wide')
        return y if bias is None else self.op('Add', y, self.weight(name + '.bias.whole', bias))

    def inverse_length(self, x):
        square = self.op('ReduceSumSquare', x, axes=[-1], keepdims=1)
        return self.op('Reciprocal', self.op('Sqrt', self.op('Add', square, self.constant(1e-9))))

    def unit(self, x):
        return self.op('Mul', x, self.inverse_length(x))

    def first(self, x, axis):
        return self.op('Gather', x, self.axes(0), axis=axis)

    def norm(self, x, name, out=None):
        return self.op('LayerNormalization', x, self.weight(name + '.weight'), self.weight(name + '.bias'), out=out, axis=-1, epsilon=1e-12)

    def save(self, path, inputs, outputs, shared=None):
        """Writes the graph; weights that `shared`, the files beside it, hold already are referred to there."""
        value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
        used = {i for node in self.nodes for i in node.input}
        order = sorted((n for n in self.weights if n in used), key=lambda n: (-self.weights[n].nbytes, n))
        tensors = [(shared.tensor(n, self.weights[n]) if shared else None) or numpy_helper.from_array(self.weights[n], n) for n in order]
        graph = helper.make_graph(self.nodes, 'rankmill', [value(*i) for i in inputs], [value(*o) for o in outputs], tensors)
        model = helper.make_model(graph, opset_imports=OPSET, ir_version=8, producer_name='rankmill')
        helper.set_model_props(model, {name: base64.b64encode(value.astype('<f4').tobytes()).decode() for name, value in self.notes.items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(aligned(model))
        if shared:
            shared.add(path, model)


def own_tensors(model):
    return [t for t in model.graph.initializer if len(t.raw_data) >= SHARED_BYTES]


def offsets_of(model, data):
    """Where the large weights lie in the file, in its order."""
    places, at = [], 0
    for tensor in own_tensors(model):
        at = data.index(tensor.raw_data, at)
        places.append(at)
        at += len(tensor.raw_data)
    return places


def aligned(model):
    """The file's bytes, large weights at multiples of ALIGNED_BYTES: comments are stretched to fit, so any reader understands it."""
    large = own_tensors(model)
    for i in range(len(large)):
        # The comment before a tensor: the model's own for the first, else that of the tensor before.
        holder = model if i == 0 else large[i - 1]
        holder.doc_string = ' '
        for _ in range(ALIGNED_BYTES):
            at = offsets_of(model, model.SerializeToString())[i]
            if at % ALIGNED_BYTES == 0:
                break
            holder.doc_string = ' ' * ((len(holder.doc_string) - 1 - at) % ALIGNED_BYTES + 1)
    return model.SerializeToString()


class Shared:
    """Large weights of the ONNX files of one folder, by name, so that several graphs use one copy (ONNX external data)."""

    def __init__(self):
        self.places = {}

    def add(self, path, model):
        for tensor, offset in zip(own_tensors(model), offsets_of(model, path.read_bytes())):
            self.places.setdefault((tensor.name, tensor.raw_data), (path.name, offset))

    def tensor(self, name, value):
        place = self.places.get((name, value.tobytes()))
        if place is None:
            return None
        tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape, data_location=TensorProto.EXTERNAL)
        for key, entry in zip(('location', 'offset', 'length'), (*place, value.nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
        return tensor
