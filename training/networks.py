"""The graphs of the models: the cross-encoder whole, in stages or with all its exits, and the bi-encoder."""
import numpy as np
from onnx import TensorProto

from graph import Graph
from shape import CLS, HEAD, HIDDEN, SEP

I64, F32 = TensorProto.INT64, TensorProto.FLOAT
IDS = [(n, I64, ['n', 'tokens']) for n in ('input_ids', 'attention_mask', 'token_type_ids')]


def cosines(g, unit):
    """All tokens with all, [n, tokens, tokens], in three parts of 128 channels and their sum.

    ONNX Runtime cuts longer sums by the matrix's size: padding would change the last bit of a score.
    """
    parts = g.op('Reshape', unit, g.constant([0, 0, 3, 128], np.int64))
    return g.op('ReduceSum', g.op('MatMul', g.op('Transpose', parts, perm=[0, 2, 1, 3]), g.op('Transpose', parts, perm=[0, 2, 3, 1])),
                g.axes(1), keepdims=0)


def weighted(g, weight, values):
    """Sums of values [n, tokens, k] weighted by [n, 1, tokens], as [n, k].

    With two rows and at least two columns: ONNX Runtime sums a single one in another order when it is padded.
    """
    both = g.op('MatMul', g.op('Concat', weight, weight, axis=1), values)
    return g.op('Gather', both, g.constant(0, np.int64), axis=1)


def masks(g):
    """Float masks of what is real and of the two segments, [n, tokens] each."""
    real = g.op('Cast', 'attention_mask', to=F32)
    passage = g.op('Mul', g.op('Cast', 'token_type_ids', to=F32), real)
    return real, g.op('Sub', real, passage), passage


def index_of(g):
    length = g.op('Gather', g.op('Shape', 'attention_mask'), g.constant(1, np.int64))
    return length, g.op('Range', g.constant(0, np.int64), length, g.constant(1, np.int64))


def heads_of(g):
    return g.state['layers.0.qkv.weight'].shape[0] // (3 * HEAD)


def attention_masks(g, real, query, passage):
    """The tokens' places, and what attention may see, [n, 3, tokens * tokens], with the shape of a head's part."""
    length, index = index_of(g)
    inside = g.op('Mul', query, g.op('Cast', g.op('Greater', index, g.constant(0, np.int64)), to=F32))
    row, column = g.axes(1), g.axes(2)
    forth = g.op('Mul', g.op('Unsqueeze', query, column), g.op('Unsqueeze', passage, row))
    back = g.op('Mul', g.op('Unsqueeze', passage, column), g.op('Unsqueeze', inside, row))
    closed = g.op('Expand', g.op('Unsqueeze', g.op('Sub', g.constant(1), real), row), g.op('Shape', forth))
    stacked = g.op('Concat', *[g.op('Unsqueeze', m, row) for m in (forth, back, closed)], axis=1)
    flat = g.op('Reshape', stacked, g.constant([0, 3, -1], np.int64))
    size = g.op('Unsqueeze', length, g.axes(0))
    return index, flat, g.op('Concat', g.constant([0, heads_of(g)], np.int64), size, size, axis=0)


def words_of(g):
    g.weights['words'] = g.state['embedding.words']
    g.weights['words.scale'] = g.state['embedding.scales'].astype(np.float32)
    return g.op('Mul', g.op('Cast', g.op('Gather', 'words', 'input_ids'), to=F32), g.op('Gather', 'words.scale', 'input_ids'))


def embed(g, query, passage, index):
    words = words_of(g)
    # A passage's positions begin at one, whatever the query's length.
    length = g.op('ReduceSum', query, g.axes(1), keepdims=1)
    moved = g.op('Mul', passage, g.op('Sub', length, g.constant(1)))
    places = g.op('Sub', index, g.op('Cast', moved, to=I64))
    place = g.op('Gather', g.weight('embedding.positions'), places)
    segment = g.op('Mul', g.op('Unsqueeze', passage, g.axes(2)), g.weight('embedding.segment'))
    return words, g.norm(g.op('Sum', words, place, segment), 'embedding.norm')


def content_of(g, segment):
    special = g.op('Or', g.op('Equal', 'input_ids', g.constant(CLS, np.int64)), g.op('Equal', 'input_ids', g.constant(SEP, np.int64)))
    return g.op('Mul', segment, g.op('Cast', g.op('Not', special), to=F32))


def overlap(g, words, query, passage):
    """Seven numbers bar one, [n, 6], and the weights of the query's tokens, [n, 1, tokens]."""
    idf = g.op('Gather', g.weight('overlap.idf', g.state['overlap.idf'].reshape(-1)), 'input_ids')
    weight = g.op('Unsqueeze', g.op('Mul', idf, query), g.axes(1))
    query_column, column, row = g.op('Unsqueeze', query, g.axes(2)), g.op('Unsqueeze', passage, g.axes(2)), g.op('Unsqueeze', passage, g.axes(1))
    length = g.op('Mul', g.op('MatMul', row, column), g.constant(0.7 / 110))
    same = g.op('Cast', g.op('Equal', g.op('Unsqueeze', 'input_ids', g.axes(2)), g.op('Unsqueeze', 'input_ids', g.axes(1))), to=F32)
    slope, offset = (g.op('Gather', g.weight('overlap.near'), g.constant(i, np.int64)) for i in (0, 1))
    near = g.op('Sigmoid', g.op('Add', g.op('Mul', cosines(g, g.unit(words)), slope), offset))
    values = []
    for match in (same, near):
        count = g.first(g.op('MatMul', match, g.op('Concat', column, query_column, axis=2)), 2)
        values.append(g.op('Div', count, g.op('Add', g.op('Add', count, g.constant(0.5)), length)))
        values.append(g.op('ReduceMax', g.op('Mul', match, row), axes=[2], keepdims=1))
    sums = weighted(g, weight, g.op('Concat', *values, query_column, axis=2))
    found, total = g.op('Split', sums, g.constant([4, 1], np.int64), outputs=2, axis=1)
    total = g.op('Add', total, g.constant(1e-3))
    absolute = g.op('Mul', g.op('Gather', found, g.constant([0, 2], np.int64), axis=1), g.constant(1 / 30))
    features = g.op('Concat', g.op('Div', found, total), absolute, axis=1)
    return features, g.op('Div', weight, g.op('Unsqueeze', total, g.axes(2)))


def layer(g, name, x, bias):
    """One transformer layer; `bias` is what is added to the attention's logits, [n, 1 or heads, tokens, tokens]."""
    qkv, qkv_bias = g.linear(x, name + 'qkv')
    q, k, v = g.op('Split', qkv, g.constant([heads_of(g) * HEAD] * 3, np.int64), outputs=3, axis=-1)
    context = g.op('MultiHeadAttention', q, k, v, qkv_bias, '', bias, num_heads=heads_of(g))
    out, out_bias = g.linear(context, name + 'out')
    x = skip_norm(g, out, x, name + 'norm1', out_bias)
    up, up_bias = g.linear(x, name + 'up')
    down, down_bias = g.linear(g.op('BiasGelu', up, up_bias), name + 'down')
    return skip_norm(g, down, x, name + 'norm2', down_bias)


def gates(g, name, flat, shape):
    values = np.concatenate([-g.state[name + 'gate'].reshape(2, -1), np.full((1, heads_of(g)), -10000.0)]).T
    g.weights[name + 'gates'] = values.astype(np.float32)
    return in_layers(g, g.op('Reshape', g.op('MatMul', name + 'gates', flat), shape))


def in_layers(g, x):
    return g.op('Cast', x, to=TensorProto.FLOAT16) if g.dtype == 'fp16' else x


def in_heads(g, x):
    return g.op('Cast', x, to=F32) if g.dtype == 'fp16' else x


def skip_norm(g, x, skip, norm, bias):
    """Layer normalisation of x + skip + bias."""
    if g.dtype == 'fp16':
        scale, shift = (g.weight(f'{norm}.{kind}', half=True) for kind in ('weight', 'bias'))
        return g.op('SkipLayerNormalization', x, skip, scale, shift, bias, epsilon=1e-12)
    # Spelled out: ONNX Runtime's own operator is scalar code on CPU, half as fast.
    x = g.op('Add', g.op('Add', x, bias), skip)
    centred = g.op('Sub', x, g.op('ReduceMean', x, axes=[-1], keepdims=1))
    variance = g.op('Mul', g.op('ReduceSumSquare', centred, axes=[-1], keepdims=1), g.constant(1 / HIDDEN))
    inverse = g.op('Reciprocal', g.op('Sqrt', g.op('Add', variance, g.constant(1e-12))))
    return g.op('Add', g.op('Mul', g.op('Mul', centred, inverse), g.weight(norm + '.weight')), g.weight(norm + '.bias'))


def adapted(g, name, x):
    """What an early exit's head sees."""
    if name + 'up.weight' not in g.state:
        return x
    up, up_bias = g.linear(x, name + 'up')
    down, down_bias = g.linear(g.op('BiasGelu', up, up_bias), name + 'down')
    return g.op('Add', g.op('Add', down, down_bias), x)


def head(g, k, x, query, passage, content, features, weight, out):
    name = f'heads.{k}.'
    segments = g.op('Concat', g.op('Unsqueeze', query, g.axes(1)), g.op('Unsqueeze', passage, g.axes(1)), axis=1)
    means = g.unit(g.op('MatMul', segments, x))
    u, v = (g.op('Gather', means, g.constant(i, np.int64), axis=1) for i in (0, 1))
    near = g.op('Mul', cosines(g, g.unit(x)), g.op('Unsqueeze', content, g.axes(1)))
    best = g.op('ReduceMax', near, axes=[2], keepdims=1)
    late = g.op('Gather', weighted(g, weight, g.op('Concat', best, best, axis=2)), g.axes(0), axis=1)
    every = g.op('Concat', features, late, axis=1)
    product = g.op('Mul', u, v)
    apart = g.op('Abs', g.op('Sub', u, v))
    joined = g.op('Concat', g.op('Mul', product, g.constant(20)), g.op('Mul', apart, g.constant(10)), every, axis=1)
    inner = g.op('Tanh', g.op('Add', g.op('MatMul', joined, g.weight(name + 'inner.weight.T', g.state[name + 'inner.weight'].T)), g.weight(name + 'inner.bias')))
    cosine = g.op('Mul', g.op('ReduceSum', product, g.axes(1), keepdims=1), g.weight(name + 'cosine'))
    linear = g.op('Add', g.op('MatMul', every, g.weight(name + 'linear.weight.T', g.state[name + 'linear.weight'].T)), g.weight(name + 'linear.bias'))
    outer = g.op('MatMul', inner, g.weight(name + 'outer.weight.T', g.state[name + 'outer.weight'].T))
    return g.op('Sum', cosine, linear, outer, out=out)


def carried(after):
    """What a stage that ends after this layer hands on."""
    return [(f'hidden_states_{after}', F32, ['n', 'tokens', HIDDEN]), (f'overlap_{after}', F32, ['n', 6]),
            (f'query_weights_{after}', F32, ['n', 1, 'tokens'])]


def write_cross_encoder(path, state, exits, dtype='fp32', first=0, last=None, every=False, int8=None, shared=None):
    """The layers from `first` up to exit `last` as one graph, with the head of that exit, or with all heads on the way.

    A later stage takes hidden_states_N, overlap_N and query_weights_N from the one before, beside the three usual inputs.
    """
    last = exits[-1] if last is None else last
    g = Graph(state, dtype, int8)
    real, query, passage = masks(g)
    index, flat, shape = attention_masks(g, real, query, passage)
    if first == 0:
        words, x = embed(g, query, passage, index)
        features, weight = overlap(g, words, content_of(g, query), content_of(g, passage))
    else:
        x, features, weight = (name for name, *_ in carried(first))
    content, outputs, x = content_of(g, passage), [], in_layers(g, x)
    for i in range(first, last):
        x = layer(g, f'layers.{i}.', x, gates(g, f'layers.{i}.', flat, shape))
        if i + 1 == last or (every and i + 1 in exits):
            out = f'logits_{i + 1}' if every else 'logits'
            k = exits.index(i + 1)
            head(g, k, in_heads(g, adapted(g, f'heads.{k}.', x)), query, passage, content, features, weight, out)
            outputs.append((out, F32, ['n', 1]))
    if last != exits[-1]:
        for source, value in zip((in_heads(g, x), features, weight), carried(last)):
            g.op('Identity', source, out=value[0])
            outputs.append(value)
    g.save(path, IDS + ([] if first == 0 else carried(first)), outputs, shared)


def write_bi_encoder(path, state, layers, dtype='fp32', int8=None, shared=None):
    """last_hidden_state, as BertModel gives it, and sentence_embedding, its normalised mean [n, 384]."""
    g = Graph(state, dtype, int8)
    real = g.op('Cast', 'attention_mask', to=F32)
    length, index = index_of(g)
    place = g.op('Gather', g.weight('embedding.positions'), index)
    x = in_layers(g, g.norm(g.op('Add', words_of(g), place), 'embedding.norm'))
    size = g.op('Unsqueeze', length, g.axes(0))
    closed = g.op('Mul', g.op('Sub', g.constant(1), real), g.constant(-10000))
    bias = g.op('Expand', g.op('Unsqueeze', closed, g.axes(1, 2)), g.op('Concat', g.constant([1, 1], np.int64), size, g.constant([1], np.int64), axis=0))
    bias = in_layers(g, bias)
    for i in range(layers):
        x = layer(g, f'layers.{i}.', x, bias)
    x = g.op('Identity', in_heads(g, x), out='last_hidden_state')
    pooled = weighted(g, g.op('Unsqueeze', real, g.axes(1)), x)
    g.op('Identity', g.unit(pooled), out='sentence_embedding')
    g.save(path, IDS, [('last_hidden_state', F32, ['n', 'tokens', HIDDEN]), ('sentence_embedding', F32, ['n', HIDDEN])], shared)
