/**
 * Batches of a causal model: each row's score is at its own last token. What rows have in common at their beginning is read
 * once, and its keys and values are kept for the next ones. How rows may share calls is not taken from the graph's word but
 * tried when it is opened: exports of this kind are known that give other scores in a batch than alone.
 */
import { LRUCache } from 'lru-cache'
import { type InferenceSession, Tensor } from 'onnxruntime-node'
import type { CausalHead } from '../model/causal-head.js'
import type { Model } from '../model/model.js'
import type { Batch } from './engine.js'
import { halfToFloat } from './half.js'

/** Which rows share a call: any, those of one length, none. */
export type Company = 'any' | 'equal' | 'alone'

/** What the trial at the opening found. */
export interface CausalAbilities {
  readonly company: Company
  /** The same of rows behind a kept beginning; undefined: none is kept. */
  readonly behindPrefix: Company | undefined
}

/** Keys and values of a beginning, by the inputs that take them. */
interface Prefix {
  readonly tokens: number
  readonly states: ReadonlyMap<string, Tensor>
  readonly bytes: number
}

interface Row {
  readonly place: number
  readonly ids: BigInt64Array
  /** Tokens of its beginning that are kept. */
  readonly shared: number
}

/** Of a call: logits, where they are given for every token, and a kept beginning once a row. Rows of more go alone. */
const CALL_BYTES = 256 << 20
/** Two ways to the same score differ by no more than rounding does. */
const SAME: Readonly<Record<string, number>> = { fp32: 1e-3, int8: 1e-2, int4: 1e-2, fp16: 5e-2 }

export class CausalRows {
  readonly #session: InferenceSession
  readonly #model: Model
  readonly #head: CausalHead
  readonly #prefixes: LRUCache<string, Prefix> | undefined
  #abilities: CausalAbilities = { company: 'alone', behindPrefix: 'alone' }

  private constructor(session: InferenceSession, model: Model, head: CausalHead, prefixBytes: number) {
    this.#session = session
    this.#model = model
    this.#head = head
    if (prefixBytes < 1 || head.past.length === 0) return
    this.#prefixes = new LRUCache<string, Prefix>({
      maxSize: prefixBytes,
      sizeCalculation: ({ bytes }) => bytes,
      dispose: ({ states }) => {
        for (const state of states.values()) state.dispose()
      },
    })
  }

  /**
   * Tries how rows may share calls.
   *
   * @param prefixBytes of keys and values that are kept; 0: none
   * @throws RankmillError as `run`
   */
  static async open(
    session: InferenceSession,
    model: Model,
    head: CausalHead,
    prefixBytes: number,
  ): Promise<CausalRows> {
    const rows = new CausalRows(session, model, head, prefixBytes)
    rows.#abilities = await rows.#tried()
    return rows
  }

  get abilities(): CausalAbilities {
    return this.#abilities
  }

  /** Tokens of the longest beginning that is kept; 0: none is. */
  get keptTokens(): number {
    if (!this.#prefixes || this.#abilities.behindPrefix === undefined) return 0
    const bytes = this.#head.past.reduce(
      (sum, { heads, width, type }) => sum + heads * width * (type === 10 ? 2 : 4),
      0,
    )
    return Math.floor(this.#prefixes.maxSize / bytes)
  }

  /**
   * @returns [size] scores before the activation
   * @throws RankmillError `inference_failed`, `out_of_memory` come from the caller's translation of what ONNX Runtime throws
   */
  async run({ size, length, inputIds, attentionMask, prefixes }: Batch): Promise<Float32Array> {
    const scores = new Float32Array(size)
    const groups = new Map<string, Row[]>()
    const { keptTokens } = this
    for (let place = 0; place < size; place++) {
      const from = place * length
      let tokens = length
      while (tokens > 1 && attentionMask[from + tokens - 1] === 0n) tokens--
      const ids = inputIds.subarray(from, from + tokens)
      const prefix = prefixes?.[place] ?? 0
      const row = { place, ids, shared: prefix <= keptTokens ? prefix : 0 }
      const key = this.#groupOf(row)
      const group = groups.get(key)
      if (group) group.push(row)
      else groups.set(key, [row])
    }
    for (const group of groups.values()) {
      const prefix = await this.#prefixOf(group)
      for (const some of this.#calls(group, prefix)) {
        const found = await this.#call(some, prefix)
        some.forEach(({ place }, i) => {
          scores[place] = found[i] ?? Number.NaN
        })
      }
      // One that is too large to be kept is nobody else's.
      if (prefix && !this.#prefixes?.has(keyOf(group[0]?.ids, prefix.tokens)))
        for (const state of prefix.states.values()) state.dispose()
    }
    return scores
  }

  release(): void {
    this.#prefixes?.clear()
  }

  #groupOf({ place, ids, shared }: Row): string {
    const company = shared > 0 ? this.#abilities.behindPrefix : this.#abilities.company
    const beginning = shared > 0 ? keyOf(ids, shared) : ''
    // Rows alone still come one behind the other, so that what is kept is used before it is pushed out.
    if (company === 'alone') return shared > 0 ? beginning : `${place}`
    return company === 'equal' ? `${ids.length} ${beginning}` : beginning
  }

  /** A group's rows in calls, none of which takes more memory than fits. */
  *#calls(group: readonly Row[], prefix: Prefix | undefined): Iterable<readonly Row[]> {
    const company = (group[0]?.shared ?? 0) > 0 ? this.#abilities.behindPrefix : this.#abilities.company
    const longest = Math.max(...group.map(({ ids, shared }) => ids.length - shared))
    const logits = this.#head.asksLogits ? 0 : longest * Math.max(this.#head.plus, this.#head.minus ?? 0) * 4
    const bytes = logits + (prefix?.bytes ?? 0)
    const most = company === 'alone' ? 1 : Math.max(1, Math.floor(CALL_BYTES / Math.max(1, bytes)))
    for (let at = 0; at < group.length; at += most) yield group.slice(at, at + most)
  }

  async #prefixOf(group: readonly Row[]): Promise<Prefix | undefined> {
    const [first] = group
    if (!first || first.shared === 0) return undefined
    const key = keyOf(first.ids, first.shared)
    const known = this.#prefixes?.get(key)
    if (known) return known
    const made = await this.#read(first.ids.subarray(0, first.shared))
    this.#prefixes?.set(key, made)
    return made
  }

  async #read(ids: BigInt64Array): Promise<Prefix> {
    const outputs = await this.#session.run(
      this.#feeds([ids], undefined),
      this.#head.past.map(({ output }) => output),
    )
    const states = new Map<string, Tensor>()
    let bytes = 0
    for (const { input, output, type } of this.#head.past) {
      const state = outputs[output]
      if (!(state instanceof Tensor)) throw new Error(`the output "${output}" is not a tensor`)
      states.set(input, state)
      bytes += state.size * (type === 10 ? 2 : 4)
    }
    return { tokens: ids.length, states, bytes }
  }

  async #call(rows: readonly Row[], prefix: Prefix | undefined): Promise<number[]> {
    const read = rows.map(({ ids, shared }) => ids.subarray(shared))
    const name = this.#model.output ?? 'logits'
    const outputs = await this.#session.run(this.#feeds(read, prefix), [name])
    const output = outputs[name]
    if (!(output instanceof Tensor) || output.dims.length !== 3)
      throw new Error('the logits are not [rows, tokens, columns]')
    const [, tokens = 0, columns = 0] = output.dims
    const { plus, minus } = this.#head
    const at = (row: number, token: number, column: number) =>
      numberAt(output, (row * tokens + token) * columns + column)
    const scores = read.map((ids, row) => {
      // A graph that gives the last token's alone gives one.
      const token = tokens === 1 ? 0 : ids.length - 1
      return at(row, token, plus) - (minus === null ? 0 : at(row, token, minus))
    })
    output.dispose()
    return scores
  }

  #feeds(rows: readonly BigInt64Array[], prefix: Prefix | undefined): Record<string, Tensor> {
    const { padId, firstPosition, narrowInputs = [] } = this.#model
    const size = rows.length
    const length = Math.max(...rows.map((ids) => ids.length))
    const before = prefix?.tokens ?? 0
    const ids = new BigInt64Array(size * length).fill(BigInt(padId))
    const mask = new BigInt64Array(size * (before + length))
    const places = new BigInt64Array(size * length)
    rows.forEach((row, i) => {
      ids.set(row, i * length)
      mask.fill(1n, i * (before + length), i * (before + length) + before + row.length)
      for (let j = 0; j < length; j++) places[i * length + j] = BigInt(before + j)
    })
    const tensor = (name: string, values: BigInt64Array, dims: number[]) => {
      return narrowInputs.includes(name)
        ? new Tensor('int32', Int32Array.from(values, Number), dims)
        : new Tensor('int64', values, dims)
    }
    const feeds: Record<string, Tensor> = {
      input_ids: tensor('input_ids', ids, [size, length]),
      attention_mask: tensor('attention_mask', mask, [size, before + length]),
    }
    if (firstPosition !== undefined) feeds['position_ids'] = tensor('position_ids', places, [size, length])
    if (this.#head.asksLogits) feeds['num_logits_to_keep'] = tensor('num_logits_to_keep', BigInt64Array.of(1n), [])
    for (const { input, heads, width, type } of this.#head.past) {
      const state = prefix?.states.get(input)
      feeds[input] = state ? repeated(state, size) : emptyState([size, heads, 0, width], type)
    }
    return feeds
  }

  /** Scores the same rows alone, in company, and behind a kept beginning. */
  async #tried(): Promise<CausalAbilities> {
    // The scores of such graphs hang on what else is in a call, in whatever way the rows are read.
    if (!this.#model.batchInvariant) return { company: 'alone', behindPrefix: undefined }
    const row = (tokens: number, step: number): Row => {
      const ids = BigInt64Array.from({ length: tokens }, (_, i) => BigInt(1 + ((i < 9 ? i : i * step) % 90)))
      return { place: 0, ids, shared: 0 }
    }
    const rows = [row(16, 3), row(16, 7), row(12, 5)]
    const alone: number[] = []
    for (const one of rows) alone.push(...(await this.#call([one], undefined)))
    const company = await this.#company(rows, alone, undefined)
    if (!this.#prefixes) return { company, behindPrefix: undefined }
    const behind = rows.map(({ ids }) => ({ place: 0, ids, shared: 9 }))
    const prefix = await this.#read(rows[0]?.ids.subarray(0, 9) ?? new BigInt64Array())
    try {
      const first = behind.slice(0, 1)
      const isSame = await this.#isSame(first, alone, prefix)
      return { company, behindPrefix: isSame ? await this.#company(behind, alone, prefix) : undefined }
    } finally {
      for (const state of prefix.states.values()) state.dispose()
    }
  }

  async #company(rows: readonly Row[], alone: readonly number[], prefix: Prefix | undefined): Promise<Company> {
    if (!(await this.#isSame(rows.slice(0, 2), alone, prefix))) return 'alone'
    // Where the last token's logits alone are given, the last of a padded row is not its own.
    return !this.#head.asksLogits && (await this.#isSame(rows, alone, prefix)) ? 'any' : 'equal'
  }

  async #isSame(rows: readonly Row[], alone: readonly number[], prefix: Prefix | undefined): Promise<boolean> {
    // What an operator refuses (past keys for several rows, say) is as good as another score: it is not done.
    const scores = await this.#call(rows, prefix).catch(() => [Number.NaN])
    const most = (SAME[this.#model.dtype] ?? 1e-3) * Math.max(1, ...alone.map(Math.abs))
    return rows.every((_, i) => Math.abs((scores[i] ?? Number.NaN) - (alone[i] ?? Number.NaN)) <= most)
  }
}

/** Kept under the ids themselves: a hash could be another's. */
function keyOf(ids: BigInt64Array | undefined, tokens: number): string {
  return ids ? Buffer.from(ids.buffer, ids.byteOffset, 8 * tokens).toString('latin1') : ''
}

function numberAt(tensor: Tensor, place: number): number {
  if (tensor.type === 'float32') return (tensor.data as Float32Array)[place] ?? Number.NaN
  // Uint16Array up to Node 22, Float16Array from 24 on: the bits are the same.
  const { buffer, byteOffset } = tensor.data as Uint16Array
  return halfToFloat(new Uint16Array(buffer, byteOffset + 2 * place, 1)[0] ?? 0)
}

function emptyState(dims: number[], type: number): Tensor {
  return type === 10 ? new Tensor('float16', new Uint16Array(), dims) : new Tensor('float32', new Float32Array(), dims)
}

/** One row's keys or values, for each of several. */
function repeated(state: Tensor, size: number): Tensor {
  if (size === 1) return state
  const own = state.data as Float32Array
  const all = new (own.constructor as Float32ArrayConstructor)(size * own.length)
  for (let row = 0; row < size; row++) all.set(own, row * own.length)
  return new Tensor(state.type as 'float32', all, [size, ...state.dims.slice(1)])
}
