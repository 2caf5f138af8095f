"""Writes the models as ONNX graphs, node by node: whole or in stages, fp32 or int8.

By hand, because an exporter would give four times the nodes and no say in how int8 is computed. Weights are stored as
fp16 with a Cast that ONNX Runtime folds when it loads, so the fp32 graph is also the master that all else is made from.

int8: one scale a token (row), so a pair's score cannot depend on its neighbours. The scales of what leaves a
normalisation are constants by channel, measured once (`scales`), which saves the reduction and the rescaling.
"""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model import CLS, HEADS, HIDDEN, SEP

OPSET = [helper.make_opsetid('', 17), helper.make_opsetid('com.microsoft', 1)]
CONTRIB = {'MatMulIntegerToFloat', 'MultiHeadAttention', 'SkipLayerNormalization', 'BiasGelu', 'Gelu'}


class Graph:
    """Nodes and weights in the making; methods named as operators return the name of their output."""

    def __init__(self, state, int8=False, scales=None):
        self.state = {k: v.detach().cpu().numpy() for k, v in state.items()}
        self.int8, self.scales = int8, scales
        self.nodes, self.weights, self.made = [], {}, {}

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

    def weight(self, name, value=None):
        """A float weight: fp16 in the file, fp32 in use; vectors and scalars keep all their bits, they cost nothing."""
        if name in self.made:
            return self.made[name]
        value = np.ascontiguousarray(self.state[name] if value is None else value)
        if value.size >= 4096:
            self.weights[name + '.half'] = value.astype(np.float16)
            self.made[name] = self.op('Cast', name + '.half', out=name, to=TensorProto.FLOAT)
        else:
            self.weights[name] = value.astype(np.float32)
            self.made[name] = name
        return self.made[name]

    def linear(self, x, name, measured=None):
        """x times a weight, without its bias, which the next operator adds."""
        w = self.state[name + '.weight'].T.astype(np.float16).astype(np.float32)
        if not self.int8:
            return self.op('MatMul', x, self.weight(name + '.weight.T', w))
        smooth = None if self.scales is None or measured is None else self.scales[measured]
        if smooth is not None:
            # Channels share one scale after each is divided by its own; the weight takes the factor back.
            w = w * smooth[:, None]
        rows = np.maximum(np.abs(w).max(0), 1e-8) / 127
        self.weights[name + '.q'] = np.clip(np.round(w / rows), -127, 127).astype(np.int8)
        self.weights[name + '.scale'] = rows.astype(np.float32)
        q, scale = self.fixed(x, measured, smooth) if smooth is not None else self.by_row(x)
        y = self.op('MatMulIntegerToFloat', q, name + '.q', self.constant(1), name + '.scale', self.constant(128, np.uint8))
        return y if scale is None else self.op('Mul', y, scale)

    def fixed(self, x, measured, smooth):
        key = ('fixed', x)
        if key not in self.made:
            self.weights[f'{measured}.inverse'] = (1 / smooth).astype(np.float32)
            even = self.op('Mul', x, f'{measured}.inverse')
            self.made[key] = self.op('QuantizeLinear', even, self.constant(1), self.constant(128, np.uint8))
        return self.made[key], None

    def by_row(self, x):
        key = ('row', x)
        if key not in self.made:
            largest = self.op('ReduceMax', self.op('Abs', x), axes=[-1], keepdims=1)
            scale = self.op('Add', self.op('Mul', largest, self.constant(1 / 127)), self.constant(1e-9))
            even = self.op('Mul', x, self.op('Reciprocal', scale))
            self.made[key] = self.op('QuantizeLinear', even, self.constant(1), self.constant(128, np.uint8)), scale
        return self.made[key]

    def unit(self, x):
        square = self.op('ReduceSumSquare', x, axes=[-1], keepdims=1)
        return self.op('Div', x, self.op('Sqrt', self.op('Add', square, self.constant(1e-9))))

    def cosines(self, unit):
        """All tokens with all, [n, tokens, tokens], in three parts of 128 channels and their sum.

        ONNX Runtime cuts longer sums by the matrix's size: padding would change the last bit of a score.
        """
        parts = self.op('Reshape', unit, self.constant([0, 0, 3, 128], np.int64))
        return self.op('ReduceSum', self.op('MatMul', self.op('Transpose', parts, perm=[0, 2, 1, 3]),
                                            self.op('Transpose', parts, perm=[0, 2, 3, 1])), self.axes(1), keepdims=0)

    def first(self, x, axis):
        return self.op('Gather', x, self.axes(0), axis=axis)

    def weighted(self, weight, values):
        """Sums of values [n, tokens, k] weighted by [n, 1, tokens], as [n, k].

        With two rows and at least two columns: ONNX Runtime sums a single one in another order when it is padded.
        """
        both = self.op('MatMul', self.op('Concat', weight, weight, axis=1), values)
        return self.op('Gather', both, self.constant(0, np.int64), axis=1)

    def norm(self, x, name):
        return self.op('LayerNormalization', x, self.weight(name + '.weight'), self.weight(name + '.bias'), axis=-1, epsilon=1e-12)

    def axes(self, *values):
        return self.constant(values, np.int64)

    def save(self, path, inputs, outputs):
        value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
        used = {i for node in self.nodes for i in node.input}
        order = sorted((n for n in self.weights if n in used), key=lambda n: (-self.weights[n].size, n))
        graph = helper.make_graph(self.nodes, 'rankmill', [value(*i) for i in inputs], [value(*o) for o in outputs],
                                  [numpy_helper.from_array(self.weights[n], n) for n in order])
        model = helper.make_model(graph, opset_imports=OPSET, ir_version=8, producer_name='rankmill')
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def masks(g):
    """Float masks of the two segments, [n, tokens], and what attention may see, [n, 3, tokens * tokens]."""
    real = g.op('Cast', 'attention_mask', to=TensorProto.FLOAT)
    passage = g.op('Mul', g.op('Cast', 'token_type_ids', to=TensorProto.FLOAT), real)
    query = g.op('Sub', real, passage)
    return real, query, passage


def attention_masks(g, real, query, passage):
    size = g.op('Shape', 'attention_mask')
    length = g.op('Gather', size, g.constant(1, np.int64))
    index = g.op('Range', g.constant(0, np.int64), length, g.constant(1, np.int64))
    inside = g.op('Mul', query, g.op('Cast', g.op('Greater', index, g.constant(0, np.int64)), to=TensorProto.FLOAT))
    row, column = g.axes(1), g.axes(2)
    forth = g.op('Mul', g.op('Unsqueeze', query, column), g.op('Unsqueeze', passage, row))
    back = g.op('Mul', g.op('Unsqueeze', passage, column), g.op('Unsqueeze', inside, row))
    closed = g.op('Expand', g.op('Unsqueeze', g.op('Sub', g.constant(1), real), row), g.op('Shape', forth))
    stacked = g.op('Concat', *[g.op('Unsqueeze', m, row) for m in (forth, back, closed)], axis=1)
    flat = g.op('Reshape', stacked, g.constant([0, 3, -1], np.int64))
    shape = g.op('Concat', g.constant([0, HEADS], np.int64), g.op('Unsqueeze', length, g.axes(0)), g.op('Unsqueeze', length, g.axes(0)), axis=0)
    return index, flat, shape


def embed(g, query, passage, index):
    ids = 'input_ids'
    g.weights['words'] = g.state['embedding.words']
    g.weights['words.scale'] = g.state['embedding.scales'].astype(np.float32)
    words = g.op('Mul', g.op('Cast', g.op('Gather', 'words', ids), to=TensorProto.FLOAT), g.op('Gather', 'words.scale', ids))
    # A passage's positions begin at one, whatever the query's length.
    length = g.op('ReduceSum', query, g.axes(1), keepdims=1)
    moved = g.op('Mul', passage, g.op('Sub', length, g.constant(1)))
    places = g.op('Sub', index, g.op('Cast', moved, to=TensorProto.INT64))
    place = g.op('Gather', g.weight('embedding.positions'), places)
    segment = g.op('Mul', g.op('Unsqueeze', passage, g.axes(2)), g.weight('embedding.segment'))
    return words, g.norm(g.op('Sum', words, place, segment), 'embedding.norm')


def content_of(g, segment):
    special = g.op('Or', g.op('Equal', 'input_ids', g.constant(CLS, np.int64)), g.op('Equal', 'input_ids', g.constant(SEP, np.int64)))
    return g.op('Mul', segment, g.op('Cast', g.op('Not', special), to=TensorProto.FLOAT))


def overlap(g, words, query, passage):
    """Seven numbers bar one, [n, 6], and the weights of the query's tokens, [n, 1, tokens]."""
    idf = g.op('Gather', g.weight('overlap.idf', g.state['overlap.idf'][:, 0]), 'input_ids')
    weight = g.op('Unsqueeze', g.op('Mul', idf, query), g.axes(1))
    query_column, column, row = g.op('Unsqueeze', query, g.axes(2)), g.op('Unsqueeze', passage, g.axes(2)), g.op('Unsqueeze', passage, g.axes(1))
    length = g.op('Mul', g.op('MatMul', row, column), g.constant(0.7 / 110))
    same = g.op('Cast', g.op('Equal', g.op('Unsqueeze', 'input_ids', g.axes(2)), g.op('Unsqueeze', 'input_ids', g.axes(1))), to=TensorProto.FLOAT)
    slope, offset = g.state['overlap.near']
    near = g.op('Sigmoid', g.op('Add', g.op('Mul', g.cosines(g.unit(words)), g.constant(slope)), g.constant(offset)))
    values = []
    for match in (same, near):
        count = g.first(g.op('MatMul', match, g.op('Concat', column, query_column, axis=2)), 2)
        values.append(g.op('Div', count, g.op('Add', g.op('Add', count, g.constant(0.5)), length)))
        values.append(g.op('ReduceMax', g.op('Mul', match, row), axes=[2], keepdims=1))
    sums = g.weighted(weight, g.op('Concat', *values, query_column, axis=2))
    found, total = g.op('Split', sums, g.constant([4, 1], np.int64), outputs=2, axis=1)
    total = g.op('Add', total, g.constant(1e-3))
    absolute = g.op('Mul', g.op('Gather', found, g.constant([0, 2], np.int64), axis=1), g.constant(1 / 30))
    features = g.op('Concat', g.op('Div', found, total), absolute, axis=1)
    return features, g.op('Div', weight, g.op('Unsqueeze', total, g.axes(2)))


def layer(g, i, x, flat, shape):
    name = f'layers.{i}.'
    if flat is not None:
        gates = np.concatenate([-g.state[name + 'gate'].reshape(2, HEADS), np.full((1, HEADS), -10000.0)]).T
        bias = g.op('Reshape', g.op('MatMul', g.constant(gates), flat), shape)
    q, k, v = g.op('Split', g.linear(x, name + 'qkv', f'layers.{i}.in'), g.constant([HIDDEN] * 3, np.int64), outputs=3, axis=-1)
    context = g.op('MultiHeadAttention', q, k, v, g.weight(name + 'qkv.bias'), '', bias, num_heads=HEADS)
    x = skip_norm(g, g.linear(context, name + 'out'), x, name + 'norm1', name + 'out.bias')
    inner = g.op('BiasGelu', g.linear(x, name + 'up', f'layers.{i}.middle'), g.weight(name + 'up.bias'))
    return skip_norm(g, g.linear(inner, name + 'down'), x, name + 'norm2', name + 'down.bias')


def skip_norm(g, x, skip, norm, bias):
    """Layer normalisation of x + skip + bias, spelled out: ONNX Runtime's own operator is scalar code on CPU, half as fast."""
    x = g.op('Add', g.op('Add', x, g.weight(bias)), skip)
    centred = g.op('Sub', x, g.op('ReduceMean', x, axes=[-1], keepdims=1))
    variance = g.op('Mul', g.op('ReduceSumSquare', centred, axes=[-1], keepdims=1), g.constant(1 / HIDDEN))
    inverse = g.op('Reciprocal', g.op('Sqrt', g.op('Add', variance, g.constant(1e-12))))
    return g.op('Add', g.op('Mul', g.op('Mul', centred, inverse), g.weight(norm + '.weight')), g.weight(norm + '.bias'))


def head(g, k, x, query, passage, content, features, weight, out):
    name = f'heads.{k}.'
    segments = g.op('Concat', g.op('Unsqueeze', query, g.axes(1)), g.op('Unsqueeze', passage, g.axes(1)), axis=1)
    means = g.unit(g.op('MatMul', segments, x))
    u, v = (g.op('Gather', means, g.constant(i, np.int64), axis=1) for i in (0, 1))
    near = g.op('Mul', g.cosines(g.unit(x)), g.op('Unsqueeze', content, g.axes(1)))
    best = g.op('ReduceMax', near, axes=[2], keepdims=1)
    late = g.op('Gather', g.weighted(weight, g.op('Concat', best, best, axis=2)), g.axes(0), axis=1)
    all_features = g.op('Concat', features, late, axis=1)
    product = g.op('Mul', u, v)
    apart = g.op('Abs', g.op('Sub', u, v))
    w = g.state[name + 'inner.weight'].T.copy()
    w[:HIDDEN] *= 20
    w[HIDDEN:2 * HIDDEN] *= 10
    inner = g.op('Tanh', g.op('Add', g.op('MatMul', g.op('Concat', product, apart, all_features, axis=1), g.weight(name + 'inner.weight.T', w)), g.weight(name + 'inner.bias')))
    cosine = g.op('Mul', g.op('ReduceSum', product, g.axes(1), keepdims=1), g.constant(g.state[name + 'cosine']))
    linear = g.op('Add', g.op('MatMul', all_features, g.constant(g.state[name + 'linear.weight'].T)), g.constant(g.state[name + 'linear.bias']))
    outer = g.op('MatMul', inner, g.constant(g.state[name + 'outer.weight'].T))
    return g.op('Sum', cosine, linear, outer, out=out)


I64, F32 = TensorProto.INT64, TensorProto.FLOAT
IDS = [(n, I64, ['n', 'tokens']) for n in ('input_ids', 'attention_mask', 'token_type_ids')]


def carried(after):
    """What a stage that ends after this layer hands on."""
    return [(f'hidden_states_{after}', F32, ['n', 'tokens', HIDDEN]), (f'overlap_{after}', F32, ['n', 6]),
            (f'query_weights_{after}', F32, ['n', 1, 'tokens'])]


def write_cross_encoder(path, state, exits, first=0, last=None, int8=False, scales=None, extra=()):
    """The layers from `first` up to exit `last` as one graph, with the head of that exit.

    A later stage takes hidden_states_N, overlap_N and query_weights_N from the one before, beside the three usual inputs.
    """
    last = exits[-1] if last is None else last
    g = Graph(state, int8, scales)
    real, query, passage = masks(g)
    index, flat, shape = attention_masks(g, real, query, passage)
    if first == 0:
        words, x = embed(g, query, passage, index)
        features, weight = overlap(g, words, content_of(g, query), content_of(g, passage))
    else:
        x, features, weight = (name for name, *_ in carried(first))
    content = content_of(g, passage)
    for i in range(first, last):
        x = layer(g, i, x, flat, shape)
    head(g, exits.index(last), x, query, passage, content, features, weight, 'logits')
    outputs = [('logits', F32, ['n', 1])]
    if last != exits[-1]:
        for source, value in zip((x, features, weight), carried(last)):
            g.op('Identity', source, out=value[0])
            outputs.append(value)
    for name in extra:
        outputs.append((name, F32, None))
    g.save(path, IDS + ([] if first == 0 else carried(first)), outputs)
