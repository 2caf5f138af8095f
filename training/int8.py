"""Transformer layers in int8: every product of a weight takes bytes, and the rest of a layer is as little as can be.

Steps of activations are fixed numbers, measured once (`steps.py`) and kept in the int8 file: a row's bytes depend on nothing but
the row, and scales and biases become part of the product. What makes fixed steps accurate: rows out of a layer normalisation are
all of one size; its gain and offset even out the channels (SmoothQuant, Xiao et al. 2022) and put the middle of each at zero, since the
largest lie on one side; biases of what reads it and one Mul in the next sum take that back. The channels of a head's values are
evened out by the columns that make them. Only what GELU gives has one step a row, because some tokens grow ten times larger there than the rest; it is never
below -0.17, so nearly all of its 255 steps lie above zero.

What is added to attention's logits depends on the kinds of the two tokens only. So it is more channels of queries and keys, instead
of a matrix of tokens by tokens; and the product that makes queries and keys makes these too, from the kinds as more channels of
its input.
"""
import math
from dataclasses import dataclass

import numpy as np

from shape import HEAD

GELU_LEAST = 0.17  # no value of GELU is below minus this
GELU_ZERO = 24  # the byte of zero of what GELU gives: no value is below byte 0
STEPS_ABOVE = 255 - GELU_ZERO
CLOSED = 127  # the byte of a padded token, and what more it is closed by than a gate
LEAST_GATE = 0.1  # a gate is this or nothing, and so what closes padded tokens is always more than 1,600


@dataclass
class Even:
    """Rows out of a layer normalisation, in steps: `back` times `name` plus `offset` is what the layers were trained on."""
    name: str
    back: np.ndarray
    offset: np.ndarray
    norm: str


def even(g, name, norm):
    back, centre = noted(g, norm)
    return Even(name, back, g.state[norm + '.bias'] + centre, norm)


def even_norm(g, x, norm):
    back, centre = noted(g, norm)
    gain, shift = g.weight(norm + '.gain', g.state[norm + '.weight'] / back), g.weight(norm + '.shift', -centre / back)
    return even(g, g.op('LayerNormalization', x, gain, shift, axis=-1, epsilon=1e-12), norm)


def noted(g, place):
    """What a step is worth, by channel, and the middle of the channel, which its byte of zero stands for."""
    values = [g.state[f'{place}.{kind}'] for kind in ('back', 'centre')]
    g.notes.update({f'{place}.back': values[0], f'{place}.centre': values[1]})
    return values


def trained(g, x, offset=True):
    """The rows as the layers were trained on, or without the offset, which the bias of what is added to them has."""
    rows = g.op('Mul', x.name, g.weight(x.norm + '.back', x.back))
    return g.op('Add', rows, g.weight(x.norm + '.offset', x.offset)) if offset else rows


def reading(g, x, name):
    """Weight, [inputs, columns], and bias of a layer that reads x."""
    w = g.state[name + '.weight'].T.astype(np.float32)
    return w * x.back[:, None], g.state[name + '.bias'] + x.offset @ w


def kinds_of(g, *masks):
    """Bytes that tell the kinds of tokens apart, [n, tokens, masks]; the last mask's are the padded ones."""
    *open, padded = (g.op('Unsqueeze', m, g.axes(2)) for m in masks)
    stacked = g.op('Concat', *open, g.op('Mul', padded, g.constant(CLOSED)), axis=-1)
    return g.op('QuantizeLinear', stacked, g.constant(1), g.constant(128, np.uint8))


def padded_columns(heads):
    """What kind_columns gives where only padded tokens are closed, and all ask alike: one column, from one kind."""
    answered = np.full((1, heads, 1), -CLOSED, np.float32)
    return np.zeros_like(answered), np.full((heads, 1), math.sqrt(HEAD), np.float32), answered


def kind_columns(gates):
    """Columns of queries and of keys that each head has more, [kinds, heads, columns], and a bias of the former, [heads, columns].

    A query's token (the first kind) asks in one, a passage's (the second) in the other, and each key answers how far the head is closed
    to it: by gates[0] from the query to the passage, by gates[1] from there to what of the query is not its first token (the third).
    """
    step = np.maximum(np.abs(gates), LEAST_GATE)
    gates = np.where(np.abs(gates) < LEAST_GATE / 2, 0, np.sign(gates) * step)
    asked, answered = np.zeros((2, 4, gates.shape[1], 2), np.float32)
    asked[0, :, 0] = asked[1, :, 1] = math.sqrt(HEAD)
    answered[1, :, 0], answered[2, :, 1] = -gates
    # Two neighbours of a column's weights may sum to its largest and no more: one step is left for the gate.
    answered[3] = -(CLOSED - 1) * step.T
    return asked, np.zeros_like(asked[0]), answered


def with_kinds(w, bias, below, added):
    """Weight and bias of queries or keys, as [inputs + kinds, heads * (HEAD + columns)]: each head's own columns, then those of the kinds."""
    kinds, heads, more = below.shape
    own = np.concatenate([w.reshape(-1, heads, HEAD), np.zeros((len(w), heads, more), np.float32)], 2)
    rows = np.concatenate([np.zeros((kinds, heads, HEAD), np.float32), below], 2)
    return np.concatenate([own, rows]).reshape(len(w) + kinds, -1), np.concatenate([bias.reshape(heads, HEAD), added], 1).reshape(-1)


def queries_keys_values(g, name, x, kinds, columns, back, centre):
    """The three inputs of attention. Products of their own: taking one apart costs more than reading its input three times."""
    asked, asked_bias, answered = columns
    (*w, values), (*biases, bias) = (np.split(part, 3, -1) for part in reading(g, x, name + 'qkv'))
    parts = zip(('queries', 'keys'), w, biases, (asked, answered), (asked_bias, np.zeros_like(asked_bias)))
    q, k = (g.product(x.name, name + part, *with_kinds(own, b, below, added), kinds=kinds) for part, own, b, below, added in parts)
    # Attention's weights sum to one: what is taken from a value is taken from the sum.
    return q, k, g.product(x.name, name + 'values', values / back, (bias - centre) / back)


def layer(g, name, x, kinds, columns):
    """One transformer layer, from Even to what its last normalisation is of. Sum before normalisations, as in networks.skip_norm."""
    back, centre = noted(g, name + 'out')
    q, k, v = queries_keys_values(g, name, x, kinds, columns, back, centre)
    context = g.op('MultiHeadAttention', q, k, v, num_heads=columns[0].shape[1], scale=1 / math.sqrt(HEAD))
    w = g.state[name + 'out.weight'].T.astype(np.float32)
    out = g.product(context, name + 'out', w * back[:, None], g.state[name + 'out.bias'] + centre @ w + x.offset)
    x = even_norm(g, g.op('Sum', out, trained(g, x, offset=False)), name + 'norm1')
    return g.op('Sum', feed_forward(g, name, x, x.offset), trained(g, x, offset=False))


def feed_forward(g, name, x, offset):
    """Up, GELU and down; `offset` is added. GELU gives rows of very different sizes, so here each has a step of its own."""
    inner = g.op('Gelu', g.product(x.name, name + 'up', *reading(g, x, name + 'up')))
    largest = g.op('Max', g.op('ReduceMax', inner, axes=[-1], keepdims=1), g.constant(GELU_LEAST * STEPS_ABOVE / GELU_ZERO))
    inverse = g.op('Div', g.constant(STEPS_ABOVE), largest)
    w = g.state[name + 'down.weight'].T.astype(np.float32)
    down = g.product(g.op('Mul', inner, inverse), name + 'down', w, zero=GELU_ZERO)
    bias = g.weight(name + 'down.bias.whole', g.state[name + 'down.bias'] + offset + g.state.get(name + 'down.moved', 0))
    return g.op('Add', g.op('Mul', down, g.op('Reciprocal', inverse)), bias)
