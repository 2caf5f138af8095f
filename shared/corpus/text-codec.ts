/**
 * Passages as bytes: four bytes that say how, then the text. Each is compressed alone, so that it can be read alone:
 * raw deflate, which every Node has, with the corpus's dictionary. bench/corpus.ts measures it.
 */
import { createHash } from 'node:crypto'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { RankmillError } from '../errors.js'

const HEADER_BYTES = 4
/** In place of a dictionary's id. */
const PLAIN = 0
const NO_DICTIONARY = 1
const RESERVED = 16
const LEVEL = 6

export interface Dictionary {
  /** From its content, so that no two are ever taken for one another; 16 and above. */
  readonly id: number
  readonly bytes: Buffer
}

export function dictionaryOf(bytes: Buffer): Dictionary {
  const id = createHash('sha256').update(bytes).digest().readUInt32BE(0)
  return { id: id < RESERVED ? id + RESERVED : id, bytes }
}

/** Never empty, so that an empty value can mean that a passage was deleted. */
export function encodeText(text: string, dictionary: Dictionary | undefined): Buffer {
  const plain = Buffer.from(text)
  const packed = dictionary
    ? deflateRawSync(plain, { level: LEVEL, dictionary: dictionary.bytes })
    : deflateRawSync(plain, { level: LEVEL })
  const isSmaller = packed.length < plain.length
  const header = Buffer.allocUnsafe(HEADER_BYTES)
  header.writeUInt32BE(isSmaller ? (dictionary?.id ?? NO_DICTIONARY) : PLAIN)
  return Buffer.concat([header, isSmaller ? packed : plain])
}

/** The dictionary that a value needs to be read; undefined where it needs none. */
export function dictionaryIdOf(value: Buffer): number | undefined {
  const id = value.length >= HEADER_BYTES ? value.readUInt32BE(0) : PLAIN
  return id >= RESERVED ? id : undefined
}

/**
 * @param dictionary the one that `dictionaryIdOf` names
 * @throws RankmillError `invalid_corpus`
 */
export function decodeText(value: Buffer, dictionary: Dictionary | undefined): string {
  try {
    const how = value.readUInt32BE(0)
    const payload = value.subarray(HEADER_BYTES)
    if (how === PLAIN) return payload.toString('utf8')
    if (how === NO_DICTIONARY) return inflateRawSync(payload).toString('utf8')
    if (dictionary?.id !== how) throw new Error(`its dictionary ${how} is not there`)
    return inflateRawSync(payload, { dictionary: dictionary.bytes }).toString('utf8')
  } catch (error) {
    const message = `a stored passage cannot be read: ${(error as Error).message}`
    throw new RankmillError('invalid_corpus', message, {}, { cause: error })
  }
}
