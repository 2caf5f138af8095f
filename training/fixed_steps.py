"""int8 with steps that are measured once, for the graphs of encoders that exporters write (BERT, RoBERTa, DistilBERT, MiniLM and their like).

What a layer normalisation gives is in steps already: its gain and offset even out the channels and put the middle of each at zero,
and what reads it takes that back. So is what attention sums, by the columns that make the values. Biases are part of the products.
GELU's rows keep a step of their own, as some are ten times larger than the rest; so does every value that is
nearer to fp32 that way, and every value that is made by none of these three.
"""
import copy
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import helper

from calibration import agreement, keep, rows_of, scores_of
from evening import TRIED, even_steps, far, weighing
from first_tokens import leave_first
from quantize import Graph, RowInt8, integers, linear
from rounding import rounded

GELU_ZERO = 24  # the byte of zero of what GELU gives: no value is below byte 0
GELU_LEAST = 0.17
STEPS_ABOVE = 255 - GELU_ZERO
COLUMNS = 512  # of a weight, to try steps with
WORSE = 1.25  # times the loss of one step a row: a place where fixed steps lose more keeps those
NEAR = 0.998  # rank correlation with fp32 that is enough, whatever the older scheme has
SAME = 1e-4  # of a score: another order of summing
MOVED = 1e-4  # of a logit, by padding: what counts as nothing


@dataclass
class Layer:
    """A linear layer: its product, and the bias where that is all that reads it."""
    node: object
    x: str
    w: np.ndarray
    bias: np.ndarray
    out: str
    added: bool  # the bias
    extra: np.ndarray | float = 0  # what the sum that follows lacks
    back: np.ndarray | None = None  # what comes out is in these steps
    centre: np.ndarray | None = None


@dataclass
class Place:
    """A value in steps: `back` times `steps` plus `offset` is what it was."""
    steps: str
    back: np.ndarray
    offset: np.ndarray
    residuals: list = field(default_factory=list)  # sums that take it without the offset


class FixedInt8(RowInt8):
    def __init__(self, g, rows):
        super().__init__(g)
        self.found, self.outputs = rows, {o.name for o in g.graph.output}
        self.reads = defaultdict(list)
        for node in g.graph.node:
            for name in node.input:
                self.reads[name].append(node)
        self.source = {n.output[0]: n.input[0] for n in g.graph.node if n.name.startswith('quantize_first_')}
        self.layers, self.after, readers = {}, {}, defaultdict(list)
        for node in g.graph.node:
            w = linear(g, node)
            if w is not None:
                layer = self.layer(node, w)
                self.layers[node.output[0]] = self.after[layer.out] = layer
                readers[self.source.get(layer.x, layer.x)].append(layer)
        self.places, self.gelus, self.norms, self.sums, self.kept, self.dropped = {}, set(), {}, {}, [], set()
        for x, layers in readers.items():
            if x in rows and (norm := self.norm(x)):
                self.place_norm(x, layers, *norm)
        for x, layers in readers.items():
            if x in rows and x not in self.norms:
                values = self.values_of(x)
                if values and {n.output[0] for n in self.reads[x]} <= set(self.layers) and x not in self.outputs:
                    self.place_context(x, layers, values)
                elif g.is_gelu(x) and self.source.get(x, x) == x:
                    self.gelus.add(x)
        for name, place in self.places.items():
            self.take_sums(name, place)
        self.bytes = {}

    def layer(self, node, w):
        product, g = node.output[0], self.g
        bias, out, reads = np.zeros(w.shape[1], np.float32), product, self.reads[product]
        if len(reads) == 1 and reads[0].op_type == 'Add' and product not in self.outputs:
            found = [b for i in reads[0].input if i != product and (b := g.matrix(i, 1)) is not None and b.shape == bias.shape]
            if found:
                bias, out = found[0], reads[0].output[0]
        return Layer(node, node.input[0], w, bias, out, out != product)

    def norm(self, x):
        """(gain, offset) of a normalisation's output and the nodes that apply them."""
        g = self.g
        norm = g.maker(x, 'LayerNormalization')
        if norm is not None:
            names = list(norm.input[1:3])
        else:
            norm = g.maker(x, 'Add')
            grown = norm and next(filter(None, (g.maker(i, 'Mul') for i in norm.input)), None)
            if not grown or len(self.reads[grown.output[0]]) != 1 or grown.output[0] in self.outputs:
                return None
            names = [next((i for i in n.input if g.matrix(i, 1) is not None), None) for n in (grown, norm)]
        if len(names) < 2 or None in names:
            return None
        gain, offset = (g.matrix(n, 1) for n in names)
        return (gain, offset) if gain is not None and offset is not None and gain.shape == offset.shape else None

    def few(self, layers):
        w = np.concatenate([layer.w for layer in layers], 1)
        return w[:, ::-(-w.shape[1] // COLUMNS)]

    def is_near(self, x, rows, w, lost, even=None):
        """Whether fixed steps lose little more than one step a row would."""
        some = rows[:TRIED]
        high = some if even is None else some * even
        size = np.maximum(np.abs(high).max(1, keepdims=True), 1e-9) / 127
        steps = np.round(high / size) * size
        product = some @ w
        weigh = weighing(product - product.mean(0))
        by_row = far(((steps if even is None else steps / even) - some) @ w, weigh) / far(product - product.mean(0), weigh)
        near = lost <= WORSE * by_row
        if not near:
            self.kept.append(x)
        return near

    def place_norm(self, x, layers, gain, offset):
        rows, w = self.found[x].astype(np.float32), self.few(layers)
        (lost, _), _, back, centre = even_steps(rows - offset, w)
        channels = self.g.channels(x)
        even = None if channels is None else 1 / channels**0.6 * np.maximum(np.abs(w).max(1), 1e-6) ** 0.4
        if self.is_near(x, rows, w, lost, even):
            self.norms[x] = gain / back, -centre / back
            added = self.g.maker(x, 'Add')
            self.dropped.update(i for i in (added.input if added else []) if self.g.maker(i, 'Mul'))
            for name in [x, *(cut for cut, of in self.source.items() if of == x)]:
                self.places[name] = Place(name + '.steps', back, offset + centre)

    def values_of(self, x):
        """The layer that makes the values which attention sums to x, where nothing else reads them."""
        g = self.g
        chain = [x]
        for kind, slot in (('Reshape', 0), ('Transpose', 0), ('MatMul', 1), ('Transpose', 0), ('Reshape', 0)):
            node = g.maker(chain[-1], kind)
            if node is None or kind == 'Transpose' and list(helper.get_attribute_value(node.attribute[0])) != [0, 2, 1, 3]:
                return None
            if kind == 'MatMul' and not g.maker(node.input[0], 'Softmax'):
                return None
            if len(self.reads[chain[-1]]) != 1 and chain[-1] != x:
                return None
            chain.append(node.input[slot])
        layer = self.after.get(chain[-1])
        # Of its shape an exporter may have read something, before the layer or behind.
        alone = [n for n in self.reads[chain[-1]] if n.op_type != 'Shape']
        return layer if layer and layer.x in self.places and len(alone) == 1 else None

    def place_context(self, x, layers, values):
        rows, w = self.found[x].astype(np.float32), self.few(layers)
        (lost, _), _, back, centre = even_steps(rows, w)
        if len(back) == values.w.shape[1] and self.is_near(x, rows, w, lost):
            values.back, values.centre = back, centre
            self.places[x] = Place(x, back, centre)

    def is_ours(self, layer):
        return layer.x in self.places or layer.x in self.gelus

    def take_sums(self, name, place):
        """Sums of a place and of a layer's output: the layer's bias takes the offset."""
        for node in self.reads[name]:
            if node.op_type != 'Add' or place.steps == name:
                continue
            other = next((i for i in node.input if i != name), None)
            layer = self.after.get(other)
            if layer and self.is_ours(layer) and len(self.reads[other]) == 1 and other not in self.outputs and layer.back is None:
                layer.extra = place.offset
                place.residuals.append(node.output[0])
                self.sums[node.output[0]] = other, name

    def others(self, node):
        """What takes the place of a node that is no product; None: the node itself."""
        g, out = self.g, node.output[0]
        if out in self.dropped or out in self.after and out not in self.layers and self.is_ours(self.after[out]):
            return []
        if node.op_type == 'Shape' and node.input[0] in self.places:
            return [g.node('Shape', [self.places[node.input[0]].steps], out)]
        if out in self.sums:
            product, x = self.sums[out]
            # Of Add ONNX Runtime makes SkipLayerNormalization: scalar code on a CPU.
            return [g.node('Sum', [product, x + '.back'], out)]
        if out in self.source and out in self.places:
            place = self.places[out]
            cut = g.node('Slice', [self.places[self.source[out]].steps, *node.input[1:]], place.steps)
            return [cut, *self.restored(out, place)]
        if out in self.norms:
            gain, shift = self.norms[out]
            names = g.weight(out + '.gain', gain.astype(np.float32)), g.weight(out + '.shift', shift.astype(np.float32))
            made = copy.deepcopy(node)
            made.output[0] = out + '.steps'
            if node.op_type == 'LayerNormalization':
                made.input[1], made.input[2] = names
                return [made, *self.restored(out, self.places[out])]
            of = g.maker(next(i for i in node.input if g.maker(i, 'Mul')), 'Mul')
            grown = g.node('Mul', [next(i for i in of.input if g.matrix(i, 1) is None), names[0]])
            return [grown, g.node('Add', [grown.output[0], names[1]], out + '.steps'), *self.restored(out, self.places[out])]
        return None

    def restored(self, name, place):
        """The value as it was, as far as something reads it that way."""
        g = self.g
        plain = name in self.outputs or any(
            n.op_type != 'Shape' and n.output[0] not in place.residuals and n.output[0] not in self.layers and self.source.get(n.output[0]) != name
            for n in self.reads[name]
        )
        if not plain and not place.residuals:
            return []
        back = g.node('Mul', [place.steps, g.weight(name + '.step', place.back.astype(np.float32))], name + '.back')
        return [back] + ([g.node('Add', [back.output[0], g.weight(name + '.offset', place.offset.astype(np.float32))], name)] if plain else [])

    def nodes(self, node, w):
        layer = self.layers[node.output[0]]
        if not self.is_ours(layer):
            return super().nodes(node, w)
        return self.by_fixed(layer) if layer.x in self.places else self.by_gelu(layer)

    def by_fixed(self, layer):
        place = self.places[layer.x]
        w, bias = layer.w * place.back[:, None], layer.bias + place.offset @ layer.w
        if layer.back is not None:
            w, bias = w / layer.back, (bias - layer.centre) / layer.back
        rows = (self.found[self.source.get(layer.x, layer.x)].astype(np.float32) - place.offset) / place.back
        weight = np.square(weighing(rows @ w))[:, 0] if np.ndim(layer.extra) else np.ones(len(rows), np.float32)
        q, scale, moved = rounded(rows, w, -128, 127, weight)
        made, row = self.in_bytes(place.steps, 128)
        return made + [self.product(layer, row, 128, q, scale, layer.out, bias + moved + layer.extra)]

    def by_gelu(self, layer):
        g = self.g
        rows = self.found[layer.x].astype(np.float32)
        size = np.maximum(rows.max(1, keepdims=True), GELU_LEAST * STEPS_ABOVE / GELU_ZERO) / STEPS_ABOVE
        weight = np.square(weighing(rows @ layer.w) * size)[:, 0]
        q, scale, moved = rounded(rows / size, layer.w, -GELU_ZERO, STEPS_ABOVE, weight, size)
        if layer.x not in self.bytes:
            least = g.weight('quantize.gelu_least', np.float32(GELU_LEAST * STEPS_ABOVE / GELU_ZERO))
            axes = {'axes': [-1]} if g.opset < 18 else {}
            last = [g.weight('quantize.last', np.array([-1], np.int64))] if g.opset >= 18 else []
            largest = g.node('ReduceMax', [layer.x, *last], keepdims=1, **axes)
            size = g.node('Max', [largest.output[0], least])
            inverse = g.node('Div', [g.weight('quantize.gelu_steps', np.float32(STEPS_ABOVE)), size.output[0]])
            steps = g.node('Mul', [layer.x, inverse.output[0]])
            step = g.node('Reciprocal', [inverse.output[0]])
            quantised, row = self.in_bytes(steps.output[0], GELU_ZERO)
            made, self.bytes[layer.x] = [largest, size, inverse, steps, step, *quantised], (row, step.output[0])
        else:
            made = []
        row, step = self.bytes[layer.x]
        product = self.product(layer, row, GELU_ZERO, q, scale, None, None)
        scaled = g.node('Mul', [product.output[0], step])
        bias = g.weight(layer.node.input[1] + '.bias', (layer.bias + moved + layer.extra).astype(np.float32))
        return made + [product, scaled, g.node('Add', [scaled.output[0], bias], layer.out)]

    def in_bytes(self, steps, zero):
        if ('bytes', steps) in self.bytes:
            return [], self.bytes['bytes', steps]
        g = self.g
        made = g.node('QuantizeLinear', [steps, g.weight('quantize.one', np.float32(1)), g.weight(f'quantize.zero_{zero}', np.uint8(zero))])
        self.bytes['bytes', steps] = made.output[0]
        return [made], made.output[0]

    def product(self, layer, row, zero, q, scale, out, bias):
        g, name = self.g, layer.node.output[0]
        inputs = [row, g.weight(name + '.int8', q), g.weight('quantize.one', np.float32(1)), g.weight(name + '.scale', scale)]
        inputs.append(g.weight(f'quantize.zero_{zero}', np.uint8(zero)))
        if bias is not None:
            inputs += ['', g.weight(name + '.bias', bias.astype(np.float32))]
        return g.node('MatMulIntegerToFloat', inputs, out)


def places_of(g):
    """The values that linear layers read, with their channels."""
    return {node.input[0]: w.shape[0] for node in g.graph.node if (w := linear(g, node)) is not None and w.shape[0] % 2 == 0}


def of_first_tokens(model, texts, scratch, threads):
    """The model with what `leave_first` leaves, where its scores are the same; and how many layers that spares."""
    made = copy.deepcopy(model)
    g = Graph(made)
    layers = leave_first(g)
    g.finish(list(g.graph.node))
    if layers == 0:
        return model, 0
    some, scores = replace(texts, held_out=texts.held_out[:1]), []
    for name, which in (('whole', model), ('first', made)):
        keep(which, scratch / f'{name}.onnx')
        scores.append(scores_of(scratch / f'{name}.onnx', some, threads)[0][0])
    return (made, layers) if np.allclose(*scores, rtol=SAME, atol=SAME) else (model, 0)


def in_fixed_steps(model, texts, scratch, threads):
    """The nearer of two int8 graphs, as a model, and how that was found: fixed steps, or, where these are not as near to fp32, one step a row."""
    g = Graph(model)
    g.finish(list(g.graph.node))
    rows, schemes, tried = rows_of(model, places_of(g), texts, scratch, threads), [], {}
    keep(model, scratch / 'whole.onnx')
    exact, _ = scores_of(scratch / 'whole.onnx', texts, threads)
    model, first = of_first_tokens(model, texts, scratch, threads)

    def fixed(g):
        schemes.append(FixedInt8(g, rows))
        return schemes[-1]

    for name, layers in (('fixed', fixed), ('row', RowInt8)):
        made = copy.deepcopy(model)
        done = integers(made, layers)
        keep(made, scratch / f'{name}.onnx')
        scores, moved = scores_of(scratch / f'{name}.onnx', texts, threads)
        correlation, noise = agreement(exact, scores)
        tried[name] = {'rankCorrelation': correlation, 'noise': noise, 'moved': moved}, made, done
    new, old = tried['fixed'][0], tried['row'][0]
    is_near = new['rankCorrelation'] >= NEAR or new['noise'] <= old['noise']
    ours = sum(schemes[0].is_ours(layer) for layer in schemes[0].layers.values())
    chosen = 'fixed' if ours > 0 and is_near and new['moved'] <= max(MOVED, old['moved']) else 'row'
    _, made, done = tried[chosen]
    found = {'steps': chosen, 'fixed': ours if chosen == 'fixed' else 0, 'first': first, 'tried': {n: t[0] for n, t in tried.items()}}
    why = {} if ours > 0 else {'why': 'nothing was recognised that could have fixed steps'}
    return made, {**done, **found, **why}
