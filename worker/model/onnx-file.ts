/**
 * Reads what Rankmill must know of an ONNX file without loading it: inputs, outputs, operators, and the shapes of its
 * weights. The weights themselves are jumped over, so a file of any size takes milliseconds, and one that was cut off is
 * known by a field that reaches beyond its end. Field numbers: onnx/onnx.proto; wire format: protobuf.dev/programming-guides/encoding.
 */
import { type FileHandle, open } from 'node:fs/promises'

interface OnnxValue {
  readonly name: string
  /** TensorProto.DataType: 1 float32, 7 int64, 10 float16. */
  readonly type: number
  /** null for a dimension that is a name. */
  readonly shape: readonly (number | null)[]
}

interface OnnxNode {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
}

export interface OnnxFile {
  readonly inputs: readonly OnnxValue[]
  readonly outputs: readonly OnnxValue[]
  readonly nodes: readonly OnnxNode[]
  /** Shapes of the weights, by name. */
  readonly weights: ReadonlyMap<string, readonly number[]>
  /** What the weights take in memory, wherever they are read from: files may share them. */
  readonly weightBytes: number
  /** Files beside this one that hold weights. */
  readonly externalFiles: readonly string[]
  /** What whoever wrote the file noted in it (metadata_props). */
  readonly notes: Readonly<Record<string, string>>
}

/**
 * @throws Error that says what is wrong with the file
 */
export async function readOnnxFile(path: string): Promise<OnnxFile> {
  const file = await open(path)
  try {
    const { size } = await file.stat()
    if (size === 0) throw new Error('the file is empty')
    const reader = new FieldReader(file, size)
    let graph: Omit<OnnxFile, 'notes'> | undefined
    const notes: Record<string, string> = {}
    for await (const field of reader.fields({ start: 0, end: size })) {
      if (field.number === 7 && field.wire === 2) graph = await readGraph(reader, field)
      if (field.number === 14 && field.wire === 2) {
        const [key, value] = await readEntry(reader, field)
        notes[key] = value
      }
    }
    if (!graph) throw new Error('this is not an ONNX model: it holds no graph')
    return { ...graph, notes }
  } finally {
    await file.close()
  }
}

interface Span {
  readonly start: number
  readonly end: number
}

/** A field's payload; of varints the value. */
interface Field extends Span {
  readonly number: number
  readonly wire: number
  readonly value: number
}

/** Of a varint, and of what stands before a field's payload: two of them, or one and eight bytes. */
const VARINT_BYTES = 10
const HEAD_BYTES = 2 * VARINT_BYTES

/**
 * Reads through one window of the file that moves on, however large the parts between are. What is in the window is read without
 * waiting: a graph has tens of thousands of fields, and a worker's start waits for them.
 */
class FieldReader {
  readonly #file: FileHandle
  readonly #size: number
  readonly #window = Buffer.alloc(1 << 16)
  #at = 0
  #length = 0

  constructor(file: FileHandle, size: number) {
    this.#file = file
    this.#size = size
  }

  async *fields({ start, end }: Span): AsyncGenerator<Field> {
    let at = start
    while (at < end) {
      if (!this.#holds(at, HEAD_BYTES)) await this.#move(at)
      const tag = this.#varint(at)
      const number = Math.floor(tag.value / 8)
      const wire = tag.value % 8
      at = tag.end
      let field: Field
      if (wire === 0) {
        const { value, end: next } = this.#varint(at)
        field = { number, wire, value, start: at, end: next }
      } else if (wire === 2) {
        const { value, end: first } = this.#varint(at)
        field = { number, wire, value, start: first, end: first + value }
      } else if (wire === 1 || wire === 5) {
        field = { number, wire, value: 0, start: at, end: at + (wire === 1 ? 8 : 4) }
      } else {
        throw new Error('this is not an ONNX model')
      }
      if (number === 0) throw new Error('this is not an ONNX model')
      if (field.end > end) throw new Error(this.#cutOff(field.end))
      yield field
      at = field.end
    }
  }

  async text({ start, end }: Span): Promise<string> {
    if (end - start <= this.#window.length) {
      if (!this.#holds(start, end - start)) await this.#move(start)
      return this.#window.toString('utf8', start - this.#at, end - this.#at)
    }
    const buffer = Buffer.alloc(end - start)
    await this.#file.read(buffer, 0, buffer.length, start)
    return buffer.toString('utf8')
  }

  /** Repeated integers come one by one, or packed into one field. */
  async integers(field: Field): Promise<number[]> {
    if (field.wire === 0) return [field.value]
    const values: number[] = []
    for (let at = field.start; at < field.end; ) {
      if (!this.#holds(at, VARINT_BYTES)) await this.#move(at)
      const { value, end } = this.#varint(at)
      values.push(value)
      at = end
    }
    return values
  }

  /** Whether so many bytes are in the window, as far as the file has them. */
  #holds(start: number, bytes: number): boolean {
    return start >= this.#at && Math.min(start + bytes, this.#size) <= this.#at + this.#length
  }

  async #move(start: number): Promise<void> {
    this.#at = start
    this.#length = 0
    const wanted = Math.min(this.#window.length, this.#size - start)
    while (this.#length < wanted) {
      const at = start + this.#length
      const { bytesRead } = await this.#file.read(this.#window, this.#length, wanted - this.#length, at)
      if (bytesRead === 0) throw new Error(this.#cutOff(at + 1))
      this.#length += bytesRead
    }
  }

  /** Of the window, which holds it. */
  #varint(start: number): { value: number; end: number } {
    let value = 0
    let scale = 1
    for (let at = start; at < start + VARINT_BYTES; at++) {
      const byte = this.#window[at - this.#at] ?? 0
      if (at >= this.#size) throw new Error(this.#cutOff(at + 1))
      value += (byte & 0x7f) * scale
      scale *= 128
      if (byte < 0x80) return { value, end: at + 1 }
    }
    throw new Error('this is not an ONNX model')
  }

  #cutOff(needed: number): string {
    return `the file is cut off or damaged: it has ${this.#size} bytes and goes on to byte ${needed} at least`
  }
}

async function readGraph(reader: FieldReader, span: Span): Promise<Omit<OnnxFile, 'notes'>> {
  const inputs: OnnxValue[] = []
  const outputs: OnnxValue[] = []
  const nodes: OnnxNode[] = []
  const weights = new Map<string, readonly number[]>()
  const externalFiles = new Set<string>()
  let weightBytes = 0
  for await (const field of reader.fields(span)) {
    if (field.number === 1) nodes.push(await readNode(reader, field))
    else if (field.number === 5) {
      const { name, shape, location, bytes } = await readWeight(reader, field)
      weights.set(name, shape)
      weightBytes += bytes
      if (location !== null) externalFiles.add(location)
    } else if (field.number === 11) inputs.push(await readValue(reader, field))
    else if (field.number === 12) outputs.push(await readValue(reader, field))
  }
  // Old exporters list the weights among the inputs.
  const asked = inputs.filter(({ name }) => !weights.has(name))
  return { inputs: asked, outputs, nodes, weights, weightBytes, externalFiles: [...externalFiles] }
}

async function readNode(reader: FieldReader, span: Span): Promise<OnnxNode> {
  const inputs: string[] = []
  const outputs: string[] = []
  let op = ''
  for await (const field of reader.fields(span)) {
    if (field.number === 1) inputs.push(await reader.text(field))
    else if (field.number === 2) outputs.push(await reader.text(field))
    else if (field.number === 4) op = await reader.text(field)
  }
  return { op, inputs, outputs }
}

/** Of a TensorProto those that hold its values: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data. */
const DATA_FIELDS = new Set([4, 5, 6, 7, 9, 10, 11])

async function readWeight(
  reader: FieldReader,
  span: Span,
): Promise<{ name: string; shape: number[]; location: string | null; bytes: number }> {
  let name = ''
  let bytes = 0
  let location: string | null = null
  const shape: number[] = []
  for await (const field of reader.fields(span)) {
    if (field.number === 1) shape.push(...(await reader.integers(field)))
    else if (field.number === 8) name = await reader.text(field)
    else if (field.number === 13) {
      const [key, value] = await readEntry(reader, field)
      if (key === 'location') location = value
      if (key === 'length') bytes += Number(value)
    } else if (DATA_FIELDS.has(field.number)) bytes += field.end - field.start
  }
  return { name, shape, location, bytes }
}

async function readEntry(reader: FieldReader, span: Span): Promise<[key: string, value: string]> {
  let key = ''
  let value = ''
  for await (const field of reader.fields(span)) {
    if (field.number === 1) key = await reader.text(field)
    else if (field.number === 2) value = await reader.text(field)
  }
  return [key, value]
}

/** ValueInfoProto: name 1, type 2 -> tensor_type 1 -> elem_type 1, shape 2 -> dim 1 -> dim_value 1. */
async function readValue(reader: FieldReader, span: Span): Promise<OnnxValue> {
  let name = ''
  let type = 0
  const shape: (number | null)[] = []
  for await (const field of reader.fields(span)) {
    if (field.number === 1) name = await reader.text(field)
    if (field.number !== 2) continue
    for await (const tensor of reader.fields(field)) {
      if (tensor.number !== 1) continue
      for await (const part of reader.fields(tensor)) {
        if (part.number === 1) type = part.value
        if (part.number !== 2) continue
        for await (const dim of reader.fields(part)) shape.push(await readDimension(reader, dim))
      }
    }
  }
  return { name, type, shape }
}

async function readDimension(reader: FieldReader, span: Span): Promise<number | null> {
  let size: number | null = null
  for await (const field of reader.fields(span)) if (field.number === 1) size = field.value
  return size
}
