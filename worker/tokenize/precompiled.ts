/**
 * sentencepiece's precompiled normaliser: a double-array trie over UTF-8 bytes that maps characters to texts. After
 * the Rust crates `spm_precompiled` and `tokenizers`: a grapheme cluster under six bytes is replaced as a whole by what
 * its *shortest* known prefix maps to; otherwise each of its characters is replaced alone.
 */
import { CLOSER, EXTENDER, has, PREFIX } from './code-points.js'

const CLUSTER_BYTES = 6
const SAME = 1
const MAPPED = 2
const decoder = new TextDecoder()
const encoder = new TextEncoder()

function utf8Length(codePoint: number): number {
  if (codePoint < 0x80) return 1
  if (codePoint < 0x800) return 2
  return codePoint < 0x10000 ? 3 : 4
}

function widthOf(codePoint: number): number {
  return codePoint > 0xffff ? 2 : 1
}

/** Whether a grapheme cluster goes on from one character to the next (what fits into six bytes of it). */
function joins(codePoint: number, next: number): boolean {
  if (codePoint < 0x80 && next < 0x80) return codePoint === 0x0d && next === 0x0a
  return has(next, EXTENDER) ? !has(codePoint, CLOSER) : has(codePoint, PREFIX) && !has(next, CLOSER)
}

export class Precompiled {
  private readonly units: Uint32Array
  private readonly replacements: Uint8Array
  /** SAME or MAPPED by code point, 0 while unknown. */
  private readonly kinds = new Uint8Array(0x110000)
  private readonly mapped = new Map<number, string>()

  /** Throws an Error when charsmap is not what sentencepiece writes. */
  constructor(charsmap: string) {
    const bytes = Buffer.from(charsmap, 'base64')
    const size = bytes.length < 4 ? 0 : bytes.readUInt32LE(0)
    if (size === 0 || size % 4 !== 0 || 4 + size > bytes.length) throw new Error('precompiled_charsmap is damaged')
    this.units = new Uint32Array(size / 4)
    for (let at = 0; at < this.units.length; at += 1) this.units[at] = bytes.readUInt32LE(4 + at * 4)
    this.replacements = bytes.subarray(4 + size)
  }

  normalise(text: string): string {
    let out = ''
    /** Start of the characters that stay as they are and are not in out yet. */
    let kept = 0
    let clusterEnd = 0
    let at = 0
    while (at < text.length) {
      const codePoint = text.codePointAt(at) ?? 0
      let end = at + widthOf(codePoint)
      let replacement: string | null = null
      if (at >= clusterEnd) {
        clusterEnd = this.clusterEnd(text, at, end)
        if (clusterEnd > end) replacement = this.cluster(text.slice(at, clusterEnd))
        if (replacement !== null) end = clusterEnd
      }
      replacement ??= this.single(codePoint)
      if (replacement !== null) {
        out += text.slice(kept, at) + replacement
        kept = end
      }
      at = end
    }
    return kept === 0 ? text : out + text.slice(kept)
  }

  /** Where the grapheme cluster ends whose first character ends at firstEnd. */
  private clusterEnd(text: string, start: number, firstEnd: number): number {
    let previous = text.codePointAt(start) ?? 0
    let end = firstEnd
    while (end < text.length) {
      const next = text.codePointAt(end) ?? 0
      if (!joins(previous, next)) break
      end += widthOf(next)
      previous = next
    }
    return end
  }

  /** What a cluster is replaced by as a whole, null when its characters are looked at one by one. */
  private cluster(text: string): string | null {
    let bytes = 0
    for (const char of text) {
      bytes += utf8Length(char.codePointAt(0) ?? 0)
      if (bytes >= CLUSTER_BYTES) return null
    }
    return this.lookUp(text)
  }

  private single(codePoint: number): string | null {
    const kind = this.kinds[codePoint]
    if (kind === SAME) return null
    if (kind === MAPPED) return this.mapped.get(codePoint) ?? ''
    const replacement = this.lookUp(String.fromCodePoint(codePoint))
    this.kinds[codePoint] = replacement === null ? SAME : MAPPED
    if (replacement !== null) this.mapped.set(codePoint, replacement)
    return replacement
  }

  /** What the shortest prefix of the text in the trie maps to; null when there is none. */
  private lookUp(text: string): string | null {
    let position = offsetOf(this.units[0] ?? 0)
    for (const byte of encoder.encode(text)) {
      if (byte === 0) return null
      position ^= byte
      const unit = this.units[position] ?? 0
      // The label of a unit is its low byte; the top bit marks a value, which no byte equals.
      if ((unit & 0x800000ff) !== byte) return null
      position ^= offsetOf(unit)
      if ((unit & 0x100) !== 0) return this.replacementAt((this.units[position] ?? 0) & 0x7fffffff)
    }
    return null
  }

  private replacementAt(index: number): string {
    const end = this.replacements.indexOf(0, index)
    return decoder.decode(this.replacements.subarray(index, end < 0 ? undefined : end))
  }
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >> 6)
}
