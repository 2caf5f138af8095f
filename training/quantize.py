"""Writes the fp32 ONNX graph of a cross-encoder in another number format; `rankmill models quantize` runs it.

    pip install -r quantize-requirements.txt
    python quantize.py onnx/model.onnx onnx/model_int8.onnx --dtype int8

int8: linear layers take unsigned activations with one scale a row (token) and signed weights with one scale a column, so a
score cannot depend on what else is in the batch, as it does with ONNX Runtime's dynamic quantisation. What GELU gives is
shifted, because it is never below -0.17: all 255 steps lie where values are. int4: weights alone, in blocks of 32 with a scale
each (MatMulNBits), but for layers with a single row a pair, such as poolers, which stay in fp32: ONNX Runtime sums one row in
another order than several, and a score would depend, if only in its last digits, on how many pairs are in the batch. fp16: weights and arithmetic. In int8 and int4 the large embedding tables are int8 with one scale a row;
heads, normalisations and attention stay in fp32.

Without --texts nothing but the graph is needed; with them int8 has fixed steps where these are as near to fp32 (fixed_steps.py). A line of JSON on standard output says what was done; what cannot be done ends with 3, a missing package
with 4, each with one line on standard error.
"""
import argparse
import json
import math
import pathlib
import re
import sys
import tempfile

try:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper, shape_inference
except ImportError as missing:
    sys.exit(print(f'{sys.executable}: {missing}', file=sys.stderr) or 4)

MICROSOFT = 'com.microsoft'
GELU_LEAST = 0.171  # no value of GELU is below minus this, nor of its approximations
FUSED_GELUS = {'Gelu', 'FastGelu', 'BiasGelu'}
EVENING = 0.6  # how far channels are evened out, the weights taking the rest (SmoothQuant, Xiao et al. 2022)
DEVIATIONS = 3  # of a normalised value: what its gain makes of it is how large a channel gets
LEAST_COLUMNS = 8  # narrower layers are heads: they cost nothing, and their rounding would go straight into the score
TABLE_VALUES = 1 << 16  # smaller embedding tables are not worth it
BLOCK = 32  # weights that share a scale in int4
SMALL_VALUES = 1 << 10  # more are never the axes or the shape of something
SHRINKS = np.linspace(1, 0.7, 13, dtype=np.float32)  # of an int4 block's scale: the largest weight may lose for the others' sake
ONE_FILE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB; larger models get a file for their weights
# Memory that measuring steps takes: rows and what runs graphs, and copies of the weights (a BERT of base size: 4.8 GB with .44 of weights).
MEASURING_BYTES, MEASURING_TIMES = 1_500_000_000, 8
FP16_MOST, FP16_LEAST = 65504.0, 6e-8


class Unsuitable(Exception):
    """What is wrong with the graph, in one sentence."""


class Graph:
    """A graph that is being rewritten: its nodes by what they make, its weights by name."""

    def __init__(self, model):
        self.model, self.graph = model, model.graph
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in self.graph.node for a in n.attribute):
            raise Unsuitable('the graph has branches or loops (If, Loop, Scan)')
        self.opset = next((o.version for o in model.opset_import if o.domain == ''), 0)
        if self.opset < 13:
            raise Unsuitable(f'the graph has opset {self.opset}; 13 or newer is needed: export the model again')
        self.weights = {t.name: t for t in self.graph.initializer}
        self.fold()
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.added = 0

    def fold(self):
        """Constants become weights, and so do casts and transpositions of weights, which exporters leave in."""
        kept = []
        for node in self.graph.node:
            value = None
            if node.op_type == 'Constant' and node.attribute[0].name == 'value':
                value = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type in ('Identity', 'Transpose', 'Cast') and node.input[0] in self.weights:
                value = self.value(node.input[0])
                options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                if node.op_type == 'Transpose':
                    value = value.transpose(options.get('perm'))
                elif node.op_type == 'Cast':
                    value = value.astype(helper.tensor_dtype_to_np_dtype(options['to']))
            if value is None:
                kept.append(node)
            else:
                self.weight(node.output[0], value)
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def value(self, name):
        return numpy_helper.to_array(self.weights[name])

    def weight(self, name, value):
        self.weights[name] = numpy_helper.from_array(np.asarray(value, order='C'), name)
        return name

    def matrix(self, name, dimensions=2):
        """A weight of fp32 with so many axes, or None."""
        tensor = self.weights.get(name)
        fits = tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == dimensions
        return numpy_helper.to_array(tensor) if fits else None

    def scalar(self, name):
        tensor = self.weights.get(name)
        return float(numpy_helper.to_array(tensor).reshape(-1)[0]) if tensor is not None and math.prod(tensor.dims) == 1 else None

    def maker(self, name, *kinds):
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def node(self, kind, inputs, out=None, **attributes):
        self.added += 1
        out = out or f'quantize_{kind.lower()}_{self.added}'
        domain = MICROSOFT if kind in ('MatMulIntegerToFloat', 'MatMulNBits') else ''
        return helper.make_node(kind, inputs, [out], name=f'quantize_{self.added}', domain=domain, **attributes)

    def is_gelu(self, name):
        """Whether a value is x * 0.5 * (1 + erf(x / sqrt 2)), in whichever order, or a fused GELU."""
        if self.maker(name, *FUSED_GELUS):
            return True
        for term in self.factors(name):
            one_more = self.maker(term, 'Add')
            error = one_more and next(filter(None, (self.maker(i, 'Erf') for i in one_more.input)), None)
            divided = error and self.maker(error.input[0], 'Div', 'Mul')
            if not divided:
                continue
            x = next((i for i in divided.input if self.scalar(i) is None), None)
            rest = [f for f in self.factors(name, x) if f != term]
            # Another factor, as in gated units, may have any sign.
            if len(rest) == 2 and x in rest and any(self.scalar(f) == 0.5 for f in rest):
                return True
        return False

    def channels(self, name):
        """How large each channel of a layer normalisation's output usually gets; None for other values."""
        cut = self.maker(name, 'Slice')
        if cut is not None and cut.name.startswith('quantize_first'):
            name = cut.input[0]
        norm = self.maker(name, 'LayerNormalization')
        if norm is not None and len(norm.input) > 2:
            gain, offset = self.matrix(norm.input[1], 1), self.matrix(norm.input[2], 1)
        else:
            added = self.maker(name, 'Add')
            grown = added and next(filter(None, (self.maker(i, 'Mul') for i in added.input)), None)
            gain, offset = (next((v for i in n.input if (v := self.matrix(i, 1)) is not None), None) if n else None for n in (grown, added))
        if gain is None or offset is None or gain.shape != offset.shape:
            return None
        return np.maximum(np.abs(offset) + DEVIATIONS * np.abs(gain), 1e-4)

    def axes(self):
        """How many axes each value has, as far as that can be known from the graph."""
        small = [t for t in self.weights.values() if math.prod(t.dims) <= SMALL_VALUES]
        # Large weights by their shapes alone: inference would copy them.
        large = [helper.make_tensor_value_info(n, t.data_type, t.dims) for n, t in self.weights.items() if math.prod(t.dims) > SMALL_VALUES]
        asked = [i for i in self.graph.input if i.name not in self.weights]
        graph = helper.make_graph(self.graph.node, 'axes', asked + large, self.graph.output, small)
        known = shape_inference.infer_shapes(helper.make_model(graph, opset_imports=self.model.opset_import)).graph.value_info
        return {v.name: len(v.type.tensor_type.shape.dim) for v in known if v.type.tensor_type.HasField('shape')}

    def factors(self, name, whole=None, depth=3):
        node = self.maker(name, 'Mul') if name != whole and depth > 0 else None
        return [f for i in node.input for f in self.factors(i, whole, depth - 1)] if node else [name]

    def finish(self, nodes):
        """Puts the nodes in, and leaves out the weights that nothing reads any more."""
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        used = {i for node in nodes for i in node.input} | {o.name for o in self.graph.output}
        del self.graph.initializer[:]
        self.graph.initializer.extend(t for n, t in self.weights.items() if n in used)
        # Old exporters list weights among the inputs, and shapes noted before may be of types that are gone.
        asked = [i for i in self.graph.input if i.name not in self.weights]
        del self.graph.input[:], self.graph.value_info[:]
        self.graph.input.extend(asked)
        if any(n.domain == MICROSOFT for n in nodes) and all(o.domain != MICROSOFT for o in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def linear(g, node):
    """The constant weight of a linear layer that is worth it, [inputs, columns]; None for other nodes."""
    w = g.matrix(node.input[1]) if node.op_type == 'MatMul' else None
    return w if w is not None and w.shape[1] >= LEAST_COLUMNS else None


def by_column(w, pairs=True):
    """[inputs, columns] as int8 with one scale a column.

    CPUs without VNNI add two neighbouring products in 16 bits, which 255 * (127 + 127) overflows: results would differ from
    one CPU to another, and be wrong on the older. So no two neighbours may sum to more than 128 (255 * 128 < 32768).
    """
    reach = np.abs(w).max(0)
    if pairs:
        even = np.pad(w, ((0, len(w) % 2), (0, 0)))
        reach = np.maximum(reach, np.abs(even[0::2] + even[1::2]).max(0))
    scale = (np.maximum(reach, 1e-8) / 127).astype(np.float32)
    return np.clip(np.round(w / scale), -127, 127).astype(np.int8), scale


class RowInt8:
    """Linear layers in int8 with one scale a row of activations; rows are shared by the layers that read the same value."""

    def __init__(self, g):
        self.g, self.rows = g, {}
        self.readers = {}  # value -> how large the weights of each of its channels get, over all layers that read it
        for node in g.graph.node:
            w = linear(g, node)
            if w is not None:
                largest = np.abs(w).max(1)
                self.readers[node.input[0]] = np.maximum(self.readers.get(node.input[0], largest), largest)

    def takes(self, node):
        return True

    def others(self, node):
        """What takes the place of a node that is no linear layer; None: the node itself."""
        return None

    def nodes(self, node, w):
        g = self.g
        x, out, name = node.input[0], node.output[0], node.input[1]
        made = self.by_row(x)
        row, row_scale, shift, even = self.rows[x]
        q, scale = by_column(w if even is None else w / even[:, None])
        inputs = [row, g.weight(name + '.int8', q), g.weight('quantize.one', np.float32(1)), g.weight(name + '.scale', scale)]
        product = g.node('MatMulIntegerToFloat', inputs + [g.weight(f'quantize.zero_{0 if shift else 128}', np.uint8(0 if shift else 128))])
        if not shift:
            return made + [product, g.node('Mul', [product.output[0], row_scale], out)]
        scaled = g.node('Mul', [product.output[0], row_scale])
        back = g.weight(name + '.shift', (-shift * scale * q.astype(np.float32).sum(0)).astype(np.float32))
        return made + [product, scaled, g.node('Add', [scaled.output[0], back], out)]

    def by_row(self, x):
        if x in self.rows:
            return []
        g, made = self.g, []

        def add(kind, *inputs, **attributes):
            made.append(g.node(kind, list(inputs), **attributes))
            return made[-1].output[0]

        shift, even, high = GELU_LEAST if g.is_gelu(x) else 0, g.channels(x), x
        if shift:
            high = add('Add', x, g.weight('quantize.shift', np.float32(shift)))
        if even is not None:
            even = even**EVENING / np.maximum(self.readers[x], 1e-6) ** (1 - EVENING)
            even = (even.mean() / even).astype(np.float32)
            high = add('Mul', x, g.weight(x + '.even', even))
        axes = {'axes': [-1]} if g.opset < 18 else {}
        last = [g.weight('quantize.last', np.array([-1], np.int64))] if g.opset >= 18 else []
        largest = add('ReduceMax', high if shift else add('Abs', high), *last, keepdims=1, **axes)
        steps = 255 if shift else 127
        step = add('Mul', largest, g.weight(f'quantize.step_{steps}', np.float32(1 / steps)))
        scale = add('Add', step, g.weight('quantize.least', np.float32(1e-9)))
        unit = add('Mul', high, add('Reciprocal', scale))
        zero = 0 if shift else 128
        row = add('QuantizeLinear', unit, g.weight('quantize.one', np.float32(1)), g.weight(f'quantize.zero_{zero}', np.uint8(zero)))
        self.rows[x] = row, scale, shift, even
        return made


def in_blocks(w):
    """[inputs, columns] as int4: bytes [columns, blocks, BLOCK / 2] with the lower half first, and scales [columns * blocks]."""
    inputs, columns = w.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((columns, blocks * BLOCK), np.float32)
    padded[:, :inputs] = w.T
    padded = padded.reshape(columns, blocks, BLOCK)
    # 16 steps around zero are -8 to 7: the larger side of a block gets the eighth.
    largest = np.take_along_axis(padded, np.abs(padded).argmax(-1)[..., None], -1)
    full = np.where(largest == 0, 1e-8, largest / -8).astype(np.float32)
    best, least = None, None
    for shrink in SHRINKS:
        scale = full * shrink
        q = np.clip(np.round(padded / scale), -8, 7)
        lost = ((q * scale - padded) ** 2).sum(-1, keepdims=True)
        if best is None:
            best, scales, least = q, scale, lost
        else:
            better = lost < least
            best, scales, least = np.where(better, q, best), np.where(better, scale, scales), np.minimum(lost, least)
    q = (best + 8).astype(np.uint8)
    return q[..., 0::2] | (q[..., 1::2] << 4), scales.reshape(-1)


class BlockInt4:
    """Linear layers with weights in int4."""

    def __init__(self, g):
        self.g, self.axes = g, g.axes()

    def takes(self, node):
        return self.axes.get(node.input[0]) != 2

    def others(self, node):
        return None

    def nodes(self, node, w):
        g, name = self.g, node.input[1]
        packed, scales = in_blocks(w)
        inputs = [node.input[0], g.weight(name + '.int4', packed), g.weight(name + '.scale', scales)]
        # Level 4: activations in int8, one scale a block of a row, so that neighbours do not matter here either.
        return [g.node('MatMulNBits', inputs, node.output[0], K=w.shape[0], N=w.shape[1], bits=4, block_size=BLOCK, accuracy_level=4)]


def integers(model, layers, table_values=TABLE_VALUES):
    """int8 or int4: every wide linear layer with constant weights, and large embedding tables."""
    g = Graph(model)
    rewriter, nodes, linears, tables = layers(g), [], 0, 0
    for node in g.graph.node:
        w = linear(g, node)
        table = g.matrix(node.input[0]) if node.op_type == 'Gather' and all(a.i == 0 for a in node.attribute if a.name == 'axis') else None
        instead = rewriter.others(node)
        if w is not None and rewriter.takes(node):
            nodes += rewriter.nodes(node, w)
            linears += 1
        elif instead is not None:
            nodes += instead
        elif table is not None and table.size >= table_values:
            nodes += rows_of_table(g, node, table)
            tables += 1
        else:
            nodes.append(node)
    if linears == 0:
        raise Unsuitable('the graph has no linear layer (MatMul) with constant fp32 weights: is it the fp32 file of the model?')
    g.finish(nodes)
    return {'linears': linears, 'tables': tables}


def rows_of_table(g, node, table):
    name, ids = node.input
    q, scale = by_column(table.T, pairs=False)
    row = g.node('Gather', [g.weight(name + '.int8', q.T), ids], axis=0)
    row_scale = g.node('Gather', [g.weight(name + '.scale', scale[:, None]), ids], axis=0)
    wide = g.node('Cast', [row.output[0]], to=TensorProto.FLOAT)
    return [row, row_scale, wide, g.node('Mul', [wide.output[0], row_scale.output[0]], node.output[0])]


def half(value):
    """fp16; what is too large becomes the largest there is (masks), what is too small but not zero the smallest (epsilons)."""
    small = np.clip(value.astype(np.float32), -FP16_MOST, FP16_MOST)
    return np.where((small != 0) & (np.abs(small) < FP16_LEAST), np.copysign(FP16_LEAST, small), small).astype(np.float16)


def halves(model):
    """fp16 inside; what goes in and comes out is as before."""
    g = Graph(model)
    floats = [n for n, t in g.weights.items() if t.data_type == TensorProto.FLOAT]
    for name in floats:
        g.weight(name, half(g.value(name)))
    for node in g.graph.node:
        for a in node.attribute:
            if a.name in ('to', 'dtype') and a.i == TensorProto.FLOAT:
                a.i = TensorProto.FLOAT16
            elif a.type == onnx.AttributeProto.TENSOR and a.t.data_type == TensorProto.FLOAT:
                a.t.CopyFrom(numpy_helper.from_array(half(numpy_helper.to_array(a.t)), a.t.name))
    # A ConstantOfShape without a value is of fp32, whatever is around it.
    for node in g.graph.node:
        if node.op_type == 'ConstantOfShape' and not node.attribute:
            node.attribute.append(helper.make_attribute('value', numpy_helper.from_array(np.zeros(1, np.float16))))
    nodes = list(g.graph.node)
    for value in g.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            nodes = [g.node('Cast', [value.name], value.name + '.half', to=TensorProto.FLOAT16)] + renamed(nodes, value.name)
    for value in g.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            nodes = renamed(nodes, value.name) + [g.node('Cast', [value.name + '.half'], value.name, to=TensorProto.FLOAT)]
    g.finish(nodes)
    return {'linears': sum(n.op_type in ('MatMul', 'Gemm') for n in nodes), 'tables': 0}


def renamed(nodes, name):
    for node in nodes:
        for names in (node.input, node.output):
            for i, n in enumerate(names):
                if n == name:
                    names[i] = name + '.half'
    return nodes


def quantize(model, dtype, table_values=TABLE_VALUES):
    """Rewrites the model in place; how many layers and tables it changed. Raises Unsuitable."""
    if dtype == 'fp16':
        return halves(model)
    return integers(model, RowInt8 if dtype == 'int8' else BlockInt4, table_values)


def cut_head(model, tokens):
    """Leaves of a causal model's head the columns of some tokens, and notes in the file which they are."""
    g = Graph(model)
    out = next((o for o in g.graph.output if o.name == 'logits'), None)
    node = out is not None and g.maker('logits', 'MatMul')
    w = g.matrix(node.input[1]) if node else None
    if w is None:
        raise Unsuitable('the head cannot be cut: "logits" is not the product of a constant fp32 weight (MatMul)')
    if w.shape[1] <= max(tokens):
        raise Unsuitable(f'the head has {w.shape[1]} columns: it was cut before, or is not of this vocabulary')
    node.input[1] = g.weight('quantize.head', w[:, tokens])
    width = out.type.tensor_type.shape.dim[-1]
    width.Clear()
    width.dim_value = len(tokens)
    model.metadata_props.add(key='rankmill.head', value=json.dumps(tokens))
    g.finish(list(g.graph.node))


def load(source):
    """As onnx.load, which refuses weights behind links: caches of a hub hold nothing else."""
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entry = {e.key: e.value for e in tensor.external_data}
        name = pathlib.PurePosixPath(entry['location'])
        if name.is_absolute() or '..' in name.parts:
            raise Unsuitable(f'the weights of {tensor.name} lie outside of its folder: {name}')
        with open(source.parent / name, 'rb') as file:
            file.seek(int(entry.get('offset', 0)))
            tensor.raw_data = file.read(int(entry['length'])) if 'length' in entry else file.read()
        tensor.ClearField('external_data')
        tensor.data_location = TensorProto.DEFAULT
    return model


def save(model, target):
    if model.ByteSize() < ONE_FILE_BYTES:
        onnx.save(model, target)
        return
    onnx.save(model, target, save_as_external_data=True, location=target.name + '_data', size_threshold=4096)


def free_bytes():
    """What this process may still take: of the machine, its container and its own limit. None where nothing tells."""
    found = []
    for file, pattern, unit in (('/proc/meminfo', r'MemAvailable:\s+(\d+)', 1024), ('/sys/fs/cgroup/memory.max', r'(\d+)', 1)):
        try:
            found += [int(m) * unit for m in re.findall(pattern, pathlib.Path(file).read_text())]
        except OSError:
            pass  # not this system
    try:
        import resource
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        found += [most] if most != resource.RLIM_INFINITY else []
    except ImportError:
        pass
    return min(found, default=None)


def in_steps(read, options):
    """int8 with measured steps: (model, what was done); without a model where that cannot be, which `why` tells."""
    if options.texts is None:
        return None, {'steps': 'row', 'why': 'no texts were given to measure steps on'}
    model = read()
    needed, free = MEASURING_BYTES + MEASURING_TIMES * sum(len(t.raw_data) for t in model.graph.initializer), free_bytes()
    if free is not None and needed > free:
        return None, {'steps': 'row', 'why': f'to measure steps takes some {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free'}
    try:
        from calibration import Texts
        from fixed_steps import in_fixed_steps
    except ImportError as missing:
        return None, {'steps': 'row', 'why': f'{sys.executable} has no {missing.name}'}
    with tempfile.TemporaryDirectory(dir=options.target.parent) as scratch:
        try:
            return in_fixed_steps(model, Texts.read(options.texts), pathlib.Path(scratch), options.threads)
        # Whatever it is: one step a row needs nothing of what can fail here.
        except Exception as fault:
            line = (str(fault).strip().splitlines() or [''])[0]
            return None, {'steps': 'row', 'why': line if isinstance(fault, Unsuitable) else f'{type(fault).__name__}: {line}'}


def main():
    parser = argparse.ArgumentParser(description='Write a model in another number format.')
    parser.add_argument('source', type=pathlib.Path, help='the fp32 ONNX file')
    parser.add_argument('target', type=pathlib.Path, help='the file to write')
    parser.add_argument('--dtype', choices=('int8', 'int4', 'fp16'), required=True)
    parser.add_argument('--head', help='of a causal model: the ids of "no" and "yes", as 1,2; only these two are left of its head')
    parser.add_argument('--texts', type=pathlib.Path, help='int8: texts to measure steps on, and others to compare, as token ids (calibration.py)')
    parser.add_argument('--threads', type=int, default=0, help='to run the graph on texts with; 0: as many as there are cores')
    options = parser.parse_args()

    def read():
        model = load(options.source)
        if options.head:
            cut_head(model, [int(token) for token in options.head.split(',')])
        return model

    try:
        model, done = in_steps(read, options) if options.dtype == 'int8' else (None, {})
        if model is None:
            model = read()
            done = {**quantize(model, options.dtype), **done}
        save(model, options.target)
    except (Unsuitable, OSError) as fault:
        sys.exit(print(f'{options.source}: {fault}', file=sys.stderr) or 3)
    size = sum(f.stat().st_size for f in options.target.parent.glob(options.target.name + '*'))
    print(json.dumps({'dtype': options.dtype, **done, 'bytes': size}))


if __name__ == '__main__':
    # What imports this module should get this one, not a second.
    sys.modules['quantize'] = sys.modules['__main__']
    main()
