/** Zstandard data (RFC 8878, 3.1) cut after each block, with what its frames say of themselves. */

/** Bytes of a frame, in order. */
export interface FramePart {
  readonly bytes: Uint8Array
  readonly beginsFrame: boolean
  readonly endsFrame: boolean
  /** At the end of a frame that has one: the lower half of its content's XXH64. */
  readonly checksum: number | undefined
}

const FRAME = 0xfd2fb528
const MAGIC = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd)
/** The last digit is free. */
const SKIPPABLE = 0x184d2a50
/** As `zstd -d` takes unasked. */
const MOST_WINDOW_BYTES = 2 ** 27
const RLE = 1
const RESERVED = 3

type Field = 'magic' | 'descriptor' | 'header' | 'block' | 'checksum' | 'skipped'

export class FrameParts {
  /** What is being read: a field, after as many bytes as are passed over. */
  #field: Field = 'magic'
  #fieldBytes = 4
  #value = 0n
  #taken = 0
  #passing = 0
  #isSkippable = false
  #isSingleSegment = false
  #hasChecksum = false
  #endsAfter = false

  get isBetweenFrames(): boolean {
    return this.#field === 'magic' && this.#taken === 0 && this.#passing === 0
  }

  /** @throws Error where bytes are no frame */
  *cut(chunk: Uint8Array): Generator<FramePart> {
    let start = 0
    let at = 0
    const part = (endsFrame: boolean, checksum?: number): FramePart => {
      const bytes = chunk.subarray(start, at)
      start = at
      return { bytes, beginsFrame: false, endsFrame, checksum }
    }
    while (at < chunk.length) {
      if (this.#passing > 0) {
        const passed = Math.min(this.#passing, chunk.length - at)
        at += passed
        this.#passing -= passed
        if (this.#isSkippable) start = at
        else if (this.#passing === 0) yield part(this.#endsAfter)
        continue
      }
      this.#value |= BigInt(chunk[at++] ?? 0) << BigInt(8 * this.#taken++)
      const field = this.#field
      // Whether it is a frame that begins is known when they are there.
      if (field === 'magic' || field === 'skipped') start = at
      if (this.#taken < this.#fieldBytes) continue
      const value = this.#value
      this.#value = 0n
      this.#taken = 0
      if (field === 'checksum') {
        this.#expect('magic', 4)
        yield part(true, Number(value))
        continue
      }
      this.#read(field, Number(value), value)
      if (this.#field === 'descriptor') yield { bytes: MAGIC, beginsFrame: true, endsFrame: false, checksum: undefined }
      // A block of nothing.
      if (field === 'block' && this.#passing === 0) yield part(this.#endsAfter)
    }
    if (start < at) yield part(false)
  }

  #expect(field: Field, bytes: number): void {
    this.#field = field
    this.#fieldBytes = bytes
  }

  #read(field: Exclude<Field, 'checksum'>, value: number, wide: bigint): void {
    if (field === 'magic') {
      this.#isSkippable = false
      if (value === FRAME) this.#expect('descriptor', 1)
      else if (Math.floor(value / 16) === SKIPPABLE / 16) this.#expect('skipped', 4)
      else throw new Error('not Zstandard data: no frame begins where one should')
    } else if (field === 'skipped') {
      this.#isSkippable = true
      this.#passing = value
      this.#expect('magic', 4)
    } else if (field === 'descriptor') {
      this.#isSingleSegment = (value & 0x20) !== 0
      const contentSize = [this.#isSingleSegment ? 1 : 0, 2, 4, 8][value >> 6] ?? 0
      const dictionaryId = [0, 1, 2, 4][value & 3] ?? 0
      if (dictionaryId > 0) throw new Error('Zstandard data that needs a dictionary')
      this.#hasChecksum = (value & 4) !== 0
      this.#expect('header', this.#isSingleSegment ? contentSize : 1 + contentSize)
    } else if (field === 'header') {
      const size = this.#isSingleSegment ? wide : windowOf(Number(wide & 0xffn))
      if (size > MOST_WINDOW_BYTES)
        throw new Error(`Zstandard data with a window of ${size} bytes (\`--long\`), more than ${MOST_WINDOW_BYTES}`)
      this.#expect('block', 3)
    } else {
      const isLast = (value & 1) !== 0
      const type = (value >> 1) & 3
      if (type === RESERVED) throw new Error('damaged Zstandard data: a block of an unknown type')
      this.#passing = type === RLE ? 1 : value >> 3
      this.#endsAfter = isLast && !this.#hasChecksum
      if (!isLast) this.#expect('block', 3)
      else if (this.#hasChecksum) this.#expect('checksum', 4)
      else this.#expect('magic', 4)
    }
  }
}

/** Of a window descriptor. */
function windowOf(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3))
  return base + (base / 8) * (descriptor & 7)
}
