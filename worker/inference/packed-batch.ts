/**
 * Batches on their way, 6 bytes a token instead of 24: what the main thread makes and lets go of again and again moves its
 * garbage collector. Token ids and flags fit into the lower halves; all platforms of ONNX Runtime are little-endian.
 */
import type { Batch, States } from './engine.js'

export interface PackedBatch extends Omit<Batch, 'inputIds' | 'attentionMask' | 'tokenTypeIds'> {
  readonly ids: Int32Array
  readonly mask: Uint8Array
  readonly types: Uint8Array | null
}

/** A batch whose tensors are made only where somebody asks for them: in the inference process, not here. */
export class AssembledBatch implements Batch {
  readonly packed: PackedBatch

  constructor(packed: PackedBatch) {
    this.packed = packed
  }

  get size(): number {
    return this.packed.size
  }

  get length(): number {
    return this.packed.length
  }

  get inputIds(): BigInt64Array {
    return widen(this.packed.ids)
  }

  get attentionMask(): BigInt64Array {
    return widen(this.packed.mask)
  }

  get tokenTypeIds(): BigInt64Array | null {
    return this.packed.types && widen(this.packed.types)
  }

  get prefixes(): Int32Array | undefined {
    return this.packed.prefixes
  }

  get stage(): number | undefined {
    return this.packed.stage
  }

  get states(): States | undefined {
    return this.packed.states
  }

  /** The same at a stage of a model with exits, behind what the stage before gave. */
  at(stage: number, states: States | undefined): AssembledBatch {
    return new AssembledBatch({ ...this.packed, stage, ...(states ? { states } : {}) })
  }
}

export function packBatch(batch: Batch): PackedBatch {
  if (batch instanceof AssembledBatch) return batch.packed
  const { inputIds, attentionMask, tokenTypeIds, ...rest } = batch
  const ids = new Int32Array(inputIds.length)
  const halves = new Int32Array(inputIds.buffer, inputIds.byteOffset, 2 * inputIds.length)
  for (let i = 0; i < ids.length; i++) ids[i] = halves[2 * i] ?? 0
  return { ...rest, ids, mask: narrow(attentionMask), types: tokenTypeIds && narrow(tokenTypeIds) }
}

export function unpackBatch({ ids, mask, types, ...rest }: PackedBatch): Batch {
  return { ...rest, inputIds: widen(ids), attentionMask: widen(mask), tokenTypeIds: types && widen(types) }
}

function narrow(flags: BigInt64Array): Uint8Array {
  const narrowed = new Uint8Array(flags.length)
  const bytes = new Uint8Array(flags.buffer, flags.byteOffset, 8 * flags.length)
  for (let i = 0; i < narrowed.length; i++) narrowed[i] = bytes[8 * i] ?? 0
  return narrowed
}

function widen(values: Int32Array | Uint8Array): BigInt64Array {
  const widened = new BigInt64Array(values.length)
  const halves = new Int32Array(widened.buffer)
  for (let i = 0; i < values.length; i++) halves[2 * i] = values[i] ?? 0
  return widened
}
