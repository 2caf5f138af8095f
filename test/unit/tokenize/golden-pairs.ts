/** Reads the golden texts and pairs, and lays out the tokenisers they were made with. */
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { loadTokenizer, type Tokenizer } from '../../../worker/tokenize/tokenizer.js'

type TextSpec = string | { repeat: string; times: number }
/** All ids, or their count and a hash of them. */
export type Packed = number[] | [number, string]
/** Ids, start of the second type, truncated; null where the reference refuses, skipped where it needs too much room. */
export type GoldenPair = [Packed, number, boolean] | null | 'skipped'

export interface GoldenFile {
  reference: string
  truncations: ('longest_first' | 'only_second')[]
  lengths: number[]
  /** Lists of more ids are hashed. */
  full: number
  texts: TextSpec[]
  pairs: [number, number][]
  tokenisers: Record<
    string,
    { folder: string; changes: Record<string, unknown>; texts: Packed[]; pairs: GoldenPair[][] }
  >
}

export async function readGolden(): Promise<GoldenFile> {
  const file = path.resolve('test/golden/tokenize/pairs.json.gz')
  return JSON.parse(gunzipSync(await readFile(file)).toString('utf8')) as GoldenFile
}

export function textOf(spec: TextSpec): string {
  return typeof spec === 'string' ? spec : spec.repeat.repeat(spec.times)
}

export function pack(ids: Int32Array, full: number): Packed {
  if (ids.length <= full) return [...ids]
  return [ids.length, createHash('sha256').update(ids.join(',')).digest('hex').slice(0, 16)]
}

/** Loads a tokeniser folder whose tokenizer.json has other values under some of its keys. */
export async function loadChanged(folder: string, changes: Record<string, unknown>): Promise<Tokenizer> {
  if (Object.keys(changes).length === 0) return loadTokenizer(path.resolve(folder))
  const definition = JSON.parse(await readFile(path.resolve(folder, 'tokenizer.json'), 'utf8')) as object
  const config = await readFile(path.resolve(folder, 'tokenizer_config.json'), 'utf8')
  return loadWritten({ ...definition, ...changes }, config)
}

/** The tokeniser of these two files, from a folder that is gone afterwards. */
export async function loadWritten(definition: unknown, config: string): Promise<Tokenizer> {
  const folder = await mkdtemp(path.join(tmpdir(), 'rankmill-tokenizer-'))
  try {
    const text = typeof definition === 'string' ? definition : JSON.stringify(definition)
    await writeFile(path.join(folder, 'tokenizer.json'), text)
    await writeFile(path.join(folder, 'tokenizer_config.json'), config)
    return await loadTokenizer(folder)
  } finally {
    await rm(folder, { recursive: true })
  }
}
