"""The graphs of the models: the cross-encoder whole, in stages or with all its exits, and the bi-encoder."""
import numpy as np
from onnx import TensorProto

import int8
from graph import Graph
from shape import CLS, HEAD, HIDDEN, SEP

I64, F32 = TensorProto.INT64, TensorProto.FLOAT
IDS = [(n, I64, ['n', 'tokens']) for n in ('input_ids', 'attention_mask', 'token_type_ids')]


def query_rows(g, query):
    """How many tokens the longest query has, or nothing on a GPU, which would wait for the number: all rows are compared there."""
    if g.dtype == 'fp16':
        return None
    return g.op('Cast', g.op('ReduceMax', g.op('ReduceSum', query, g.axes(1), keepdims=0), axes=[0], keepdims=1), to=I64)


def first_rows(g, x, rows, axis=1):
    return x if rows is None else g.op('Slice', x, g.axes(0), rows, g.axes(axis))


def cosines(g, x, inverse, rows):
    """The first tokens with all, [n, rows, tokens], in three parts of 128 channels and their sum; `inverse` are the inverse lengths of x.

    ONNX Runtime cuts longer sums by the matrix's size: padding would change the last bit of a score.
    """
    unit = x if rows is None else first_rows(g, x, rows)
    parts = lambda x: g.op('Reshape', x, g.constant([0, 0, 3, 128], np.int64))
    every, first = parts(x), parts(unit)
    dots = g.op('ReduceSum', g.op('MatMul', g.op('Transpose', first, perm=[0, 2, 1, 3]), g.op('Transpose', every, perm=[0, 2, 3, 1])), g.axes(1), keepdims=0)
    return g.op('Mul', g.op('Mul', dots, first_rows(g, inverse, rows)), g.op('Transpose', inverse, perm=[0, 2, 1]))


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


def inside_of(g, query, index):
    """The query without its first token, which stays open to both segments, as each had one of its own."""
    return g.op('Mul', query, g.op('Cast', g.op('Greater', index, g.constant(0, np.int64)), to=F32))


def padded_of(g, real):
    return g.op('Sub', g.constant(1), real)


def attention_masks(g, real, query, passage, length, index):
    """What attention may see, [n, 3, tokens * tokens], with the shape of a head's part."""
    inside, row, column = inside_of(g, query, index), g.axes(1), g.axes(2)
    forth = g.op('Mul', g.op('Unsqueeze', query, column), g.op('Unsqueeze', passage, row))
    back = g.op('Mul', g.op('Unsqueeze', passage, column), g.op('Unsqueeze', inside, row))
    closed = g.op('Expand', g.op('Unsqueeze', padded_of(g, real), row), g.op('Shape', forth))
    stacked = g.op('Concat', *[g.op('Unsqueeze', m, row) for m in (forth, back, closed)], axis=1)
    flat = g.op('Reshape', stacked, g.constant([0, 3, -1], np.int64))
    size = g.op('Unsqueeze', length, g.axes(0))
    return flat, g.op('Concat', g.constant([0, heads_of(g)], np.int64), size, size, axis=0)


def words_of(g):
    g.weights['words'] = g.state['embedding.words']
    g.weights['words.scale'] = g.state['embedding.scales'].astype(np.float32)
    return g.op('Mul', g.op('Cast', g.op('Gather', 'words', 'input_ids'), to=F32), g.op('Gather', 'words.scale', 'input_ids'))


def embed(g, query, passage, index):
    """The words' vectors, and what the first layer's normalisation is of."""
    words = words_of(g)
    # A passage's positions begin at one, whatever the query's length.
    length = g.op('ReduceSum', query, g.axes(1), keepdims=1)
    moved = g.op('Mul', passage, g.op('Sub', length, g.constant(1)))
    places = g.op('Sub', index, g.op('Cast', moved, to=I64))
    place = g.op('Gather', g.weight('embedding.positions'), places)
    segment = g.op('Mul', g.op('Unsqueeze', passage, g.axes(2)), g.weight('embedding.segment'))
    return words, g.op('Sum', words, place, segment)


def content_of(g, segment):
    special = g.op('Or', g.op('Equal', 'input_ids', g.constant(CLS, np.int64)), g.op('Equal', 'input_ids', g.constant(SEP, np.int64)))
    return g.op('Mul', segment, g.op('Cast', g.op('Not', special), to=F32))


def overlap(g, words, query, passage, rows):
    """Seven numbers bar one, [n, 6], and the weights of the query's tokens, [n, 1, tokens]."""
    idf = g.op('Gather', g.weight('overlap.idf', g.state['overlap.idf'].reshape(-1)), 'input_ids')
    weight = g.op('Unsqueeze', g.op('Mul', idf, query), g.axes(1))
    query_column, column, row = g.op('Unsqueeze', query, g.axes(2)), g.op('Unsqueeze', passage, g.axes(2)), g.op('Unsqueeze', passage, g.axes(1))
    length = g.op('Mul', g.op('MatMul', row, column), g.constant(0.7 / 110))
    same = g.op('Cast', g.op('Equal', g.op('Unsqueeze', first_rows(g, 'input_ids', rows), g.axes(2)), g.op('Unsqueeze', 'input_ids', g.axes(1))), to=F32)
    slope, offset = (g.op('Gather', g.weight('overlap.near'), g.constant(i, np.int64)) for i in (0, 1))
    near = g.op('Sigmoid', g.op('Add', g.op('Mul', cosines(g, words, g.inverse_length(words), rows), slope), offset))
    values = []
    for match in (same, near):
        count = g.first(g.op('MatMul', match, g.op('Concat', column, query_column, axis=2)), 2)
        values.append(g.op('Div', count, g.op('Add', g.op('Add', count, g.constant(0.5)), length)))
        values.append(g.op('ReduceMax', g.op('Mul', match, row), axes=[2], keepdims=1))
    sums = weighted(g, first_rows(g, weight, rows, 2), g.op('Concat', *values, first_rows(g, query_column, rows), axis=2))
    found, total = g.op('Split', sums, g.constant([4, 1], np.int64), outputs=2, axis=1)
    total = g.op('Add', total, g.constant(1e-3))
    absolute = g.op('Mul', g.op('Gather', found, g.constant([0, 2], np.int64), axis=1), g.constant(1 / 30))
    features = g.op('Concat', g.op('Div', found, total), absolute, axis=1)
    return features, g.op('Div', weight, g.op('Unsqueeze', total, g.axes(2)))


def layer(g, name, x, bias):
    """One transformer layer; `bias` is what is added to the attention's logits, [n, 1 or heads, tokens, tokens]."""
    qkv, qkv_bias = g.linear(x, name + 'qkv')
    q, k, v = g.op('Split', qkv, g.constant([heads_of(g) * HEAD] * 3, np.int64), outputs=3, axis=-1)
    context = g.op('MultiHeadAttention', q, k, v, qkv_bias, '', bias, num_heads=heads_of(g), out=name + 'context')
    out, out_bias = g.linear(context, name + 'out')
    x = skip_norm(g, out, x, name + 'norm1', out_bias)
    down, down_bias = feed_forward(g, name, x)
    return skip_norm(g, down, x, name + 'norm2', down_bias)


def feed_forward(g, name, x):
    up, up_bias = g.linear(x, name + 'up')
    if g.dtype == 'fp16':
        return g.linear(g.op('BiasGelu', up, up_bias, out=name + 'inner'), name + 'down')
    # On a CPU the two are faster than the one; Sum, because ONNX Runtime would make one of Add and Gelu.
    return g.linear(g.op('Gelu', g.op('Sum', up, up_bias), out=name + 'inner'), name + 'down')


def gates(g, name, flat, shape):
    values = np.concatenate([-g.state[name + 'gate'].reshape(2, -1), np.full((1, heads_of(g)), -10000.0)]).T
    g.weights[name + 'gates'] = values.astype(np.float32)
    return in_layers(g, g.op('Reshape', g.op('MatMul', name + 'gates', flat), shape))


def normalised(g, x, norm):
    """Rows as what follows reads them: in int8 evened out, but for a head."""
    return int8.even_norm(g, x, norm) if g.dtype == 'int8' and norm + '.back' in g.state else g.norm(x, norm, out=norm)


def in_layers(g, x):
    return g.op('Cast', x, to=TensorProto.FLOAT16) if g.dtype == 'fp16' else x


def in_heads(g, x):
    return g.op('Cast', x, to=F32) if g.dtype == 'fp16' else x


def skip_norm(g, x, skip, norm, bias):
    """Layer normalisation of x + skip + bias."""
    if g.dtype == 'fp16':
        scale, shift = (g.weight(f'{norm}.{kind}', half=True) for kind in ('weight', 'bias'))
        return g.op('SkipLayerNormalization', x, skip, scale, shift, bias, epsilon=1e-12)
    # Sum, because of Add ONNX Runtime makes SkipLayerNormalization where it knows all shapes: scalar code on a CPU, a fifth as fast.
    return g.norm(g.op('Sum', g.op('Add', x, bias), skip), norm, out=norm)


def adapted(g, name, x):
    """What an early exit's head sees."""
    if name + 'up.weight' not in g.state:
        return x if isinstance(x, str) else int8.trained(g, x)
    if g.dtype == 'int8':
        return g.op('Add', int8.feed_forward(g, name, x, x.offset), int8.trained(g, x, offset=False))
    down, down_bias = feed_forward(g, name, x)
    return g.op('Add', g.op('Add', down, down_bias), x)


def head(g, k, x, query, passage, content, features, weight, rows, out):
    name = f'heads.{k}.'
    segments = g.op('Concat', g.op('Unsqueeze', query, g.axes(1)), g.op('Unsqueeze', passage, g.axes(1)), axis=1)
    means = g.unit(g.op('MatMul', segments, x))
    u, v = (g.op('Gather', means, g.constant(i, np.int64), axis=1) for i in (0, 1))
    near = g.op('Mul', cosines(g, x, g.inverse_length(x), rows), g.op('Unsqueeze', content, g.axes(1)))
    best = g.op('ReduceMax', near, axes=[2], keepdims=1)
    late = g.op('Gather', weighted(g, first_rows(g, weight, rows, 2), g.op('Concat', best, best, axis=2)), g.axes(0), axis=1)
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


def write_cross_encoder(path, state, exits, dtype='fp32', first=0, last=None, every=False, scheme=None, shared=None):
    """The layers from `first` up to exit `last` as one graph, with the head of that exit, or with all heads on the way.

    A later stage takes hidden_states_N, overlap_N and query_weights_N from the one before, beside the three usual inputs.
    """
    last = exits[-1] if last is None else last
    g = Graph(state, dtype, scheme)
    real, query, passage = masks(g)
    rows = query_rows(g, query)
    length, index = index_of(g)
    if dtype == 'int8':
        kinds = int8.kinds_of(g, query, passage, inside_of(g, query, index), padded_of(g, real))
    else:
        flat, shape = attention_masks(g, real, query, passage, length, index)
    if first == 0:
        words, x = embed(g, query, passage, index)
        x = normalised(g, x, 'embedding.norm')
        features, weight = overlap(g, words, content_of(g, query), content_of(g, passage), rows)
    else:
        x, features, weight = (name for name, *_ in carried(first))
        x = int8.even(g, x, f'layers.{first - 1}.norm2') if dtype == 'int8' else x
    content, outputs, x = content_of(g, passage), [], in_layers(g, x)
    for i in range(first, last):
        name = f'layers.{i}.'
        if dtype == 'int8':
            x = int8.layer(g, name, x, kinds, int8.kind_columns(g.state[name + 'gate'].reshape(2, -1)))
            x = normalised(g, x, name + 'norm2')
        else:
            x = layer(g, name, x, gates(g, name, flat, shape))
        if i + 1 == last or (every and i + 1 in exits):
            out = f'logits_{i + 1}' if every else 'logits'
            k = exits.index(i + 1)
            head(g, k, in_heads(g, adapted(g, f'heads.{k}.', x)), query, passage, content, features, weight, rows, out)
            outputs.append((out, F32, ['n', 1]))
    if last != exits[-1]:
        for source, value in zip((x.name if dtype == 'int8' else in_heads(g, x), features, weight), carried(last)):
            g.op('Identity', source, out=value[0])
            outputs.append(value)
    g.save(path, IDS + ([] if first == 0 else carried(first)), outputs, shared)


def write_bi_encoder(path, state, layers, dtype='fp32', scheme=None, shared=None):
    """last_hidden_state, as BertModel gives it, and sentence_embedding, its normalised mean [n, 384]."""
    g = Graph(state, dtype, scheme)
    real = g.op('Cast', 'attention_mask', to=F32)
    length, index = index_of(g)
    x = g.op('Add', words_of(g), g.op('Gather', g.weight('embedding.positions'), index))
    x = in_layers(g, normalised(g, x, 'embedding.norm'))
    if dtype == 'int8':
        kinds, columns = int8.kinds_of(g, padded_of(g, real)), int8.padded_columns(heads_of(g))
    else:
        size = g.op('Unsqueeze', length, g.axes(0))
        closed = g.op('Mul', padded_of(g, real), g.constant(-10000))
        bias = g.op('Expand', g.op('Unsqueeze', closed, g.axes(1, 2)), g.op('Concat', g.constant([1, 1], np.int64), size, g.constant([1], np.int64), axis=0))
        bias = in_layers(g, bias)
    for i in range(layers):
        name = f'layers.{i}.'
        x = normalised(g, int8.layer(g, name, x, kinds, columns), name + 'norm2') if dtype == 'int8' else layer(g, name, x, bias)
    x = g.op('Identity', in_heads(g, x), out='last_hidden_state')
    pooled = weighted(g, g.op('Unsqueeze', real, g.axes(1)), x)
    g.op('Identity', g.unit(pooled), out='sentence_embedding')
    g.save(path, IDS, [('last_hidden_state', F32, ['n', 'tokens', HIDDEN]), ('sentence_embedding', F32, ['n', HIDDEN])], shared)
