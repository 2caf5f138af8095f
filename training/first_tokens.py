"""Leaves of a graph's last layer what its first token needs, where a score reads nothing else of what comes out.

Keys and values of the last layer are of all tokens; its queries, sums and feed-forward are only read where the head looks. Two
tokens are kept rather than one: ONNX Runtime sums products of a single row in another order, and padding would show.
"""
from collections import defaultdict

from onnx import helper

import numpy as np

KEPT = 2
BY_ELEMENT = {
    'Add', 'Sub', 'Mul', 'Div', 'Sum', 'Pow', 'Sqrt', 'Reciprocal', 'Erf', 'Tanh', 'Sigmoid', 'Relu', 'Neg', 'Abs', 'Max', 'Min', 'Where',
    'HardSwish', 'Softplus', 'Identity',
}


def leave_first(g):
    """Narrows what it can, in place; how many linear layers that are."""
    ranks, nodes, asked, narrowed, shapes = Ranks(g), list(g.graph.node), defaultdict(list), set(), {}
    reads = defaultdict(int)
    for name in [i for node in nodes for i in node.input] + [o.name for o in g.graph.output]:
        reads[name] += 1
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        if takes_first(g, node) and ranks.of(node.input[0]) == 3:
            asked[node.input[0]].append((None, 0, 1))
            continue
        asks = asked.get(node.output[0], [])
        axes = {axis for _, _, axis in asks}
        if len(asks) != reads[node.output[0]] or len(axes) != 1:
            continue
        passed, shape = upstream(g, ranks, node, *axes)
        if passed is None:
            continue
        narrowed.add(node.output[0])
        if shape is not None:
            shapes[place] = shape
        for slot, axis in passed:
            asked[node.input[slot]].append((place, slot, axis))
    layers = sum(n.op_type == 'MatMul' and n.output[0] in narrowed and n.input[1] in g.weights for n in nodes)
    if layers == 0:
        return 0
    for place, shape in shapes.items():
        nodes[place].input[1] = g.weight(f'quantize.shape_{"_".join(map(str, shape))}', np.array(shape, np.int64))
    slices = defaultdict(list)  # behind which value
    for name, asks in asked.items():
        of = defaultdict(list)
        for place, slot, axis in asks:
            if name not in narrowed and place is not None:
                of[axis].append((place, slot))
        for axis, slots in of.items():
            bounds = [g.weight(f'quantize.bound_{v}', np.array([v], np.int64)) for v in (0, KEPT, axis)]
            out = f'{name}.first_{axis}'
            slices[name].append(helper.make_node('Slice', [name, *bounds], [out], name=f'quantize_first_{len(slices)}_{axis}'))
            for place, slot in slots:
                nodes[place].input[slot] = out
    made = {name for node in nodes for name in node.output}
    kept = [cut for name, cuts in slices.items() if name not in made for cut in cuts]
    for node in nodes:
        kept += [node, *(cut for name in node.output for cut in slices.get(name, []))]
    del g.graph.node[:]
    g.graph.node.extend(kept)
    g.makers = {name: node for node in g.graph.node for name in node.output}
    return layers


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def takes_first(g, node):
    if node.op_type != 'Gather' or attributes(node).get('axis', 0) != 1:
        return False
    return g.scalar(node.input[1]) == 0


def upstream(g, ranks, node, axis):
    """What has to be narrowed for a node's output to be: [(input, axis)], and the new shape of a Reshape; None where it cannot be."""
    rank, first = ranks.of(node.output[0]), ranks.of(node.input[0])
    if rank is None or first is None:
        return None, None
    inputs, options = node.input, attributes(node)
    last = options.get('axis', -1) in (-1, rank - 1) and axis < rank - 1
    if node.op_type in BY_ELEMENT or node.domain != '' and node.op_type in ('Gelu', 'FastGelu', 'BiasGelu'):
        passed = []
        for slot, name in enumerate(inputs):
            own = ranks.of(name)
            if own is None:
                return None, None
            at = axis - (rank - own)
            if name in g.weights:
                if at >= 0 and g.weights[name].dims[at] != 1:
                    return None, None
            elif at >= 0:
                passed.append((slot, at))
        return passed, None
    if node.op_type in ('LayerNormalization', 'Softmax') and last:
        return [(0, axis)], None
    if node.op_type == 'ReduceMean' and options.get('keepdims', 1) == 1 and axis < rank - 1:
        along = options.get('axes') or (g.value(inputs[1]).tolist() if len(inputs) > 1 and inputs[1] in g.weights else None)
        return ([(0, axis)] if along in ([-1], [rank - 1]) else None), None
    if node.op_type == 'MatMul':
        second = ranks.of(inputs[1])
        fits = axis < rank - 1 and second == 2 and inputs[1] in g.weights or axis == rank - 2 and first == second == rank
        return ([(0, axis)] if fits else None), None
    if node.op_type == 'Transpose' and 'perm' in options:
        return [(0, options['perm'][axis])], None
    if node.op_type == 'Reshape' and axis == 1 and (first, rank) in ((3, 4), (4, 3)):
        ends = ranks.shape(inputs[1])[2:]
        if None not in ends and all(v != 0 for v in ends):
            return [(0, 1)], [0, 0, *ends]
    return None, None


class Ranks:
    """How many axes each value has, as far as that can be known; more than inference knows, whom shapes that are computed end."""

    def __init__(self, g):
        self.g, self.known = g, dict(g.axes())

    def of(self, name):
        if name in self.g.weights:
            return len(self.g.weights[name].dims)
        if name not in self.known:
            self.known[name] = None  # a cycle there is not
            self.known[name] = self.found(self.g.makers.get(name))
        return self.known[name]

    def found(self, node):
        if node is None:
            return None
        if node.op_type == 'Reshape':
            return len(self.shape(node.input[1])) or None
        if node.op_type in BY_ELEMENT | {'MatMul'}:
            ranks = [self.of(i) for i in node.input]
            return None if None in ranks else max(ranks)
        if node.op_type in ('Transpose', 'LayerNormalization', 'Softmax', 'Gelu', 'FastGelu', 'BiasGelu', 'Cast'):
            return self.of(node.input[0])
        return None

    def shape(self, name):
        """The entries of a shape, None where they are computed."""
        if name in self.g.weights:
            return [int(v) for v in self.g.value(name).reshape(-1)]
        node = self.g.maker(name, 'Concat')
        if node is None:
            return []
        parts = [self.shape(i) if i in self.g.weights else [None] for i in node.input]
        return [v for part in parts for v in part]
