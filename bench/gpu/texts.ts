/** Pairs of known lengths, for Rankmill and for what it is compared with. */
import { readFile, writeFile } from 'node:fs/promises'

export type Pairs = [query: string, document: string][]
/** By tokens of a pair. */
export type Texts = Record<string, Pairs>

export const LENGTHS = [64, 200, 500]
const QUERY_WORDS = 8
const TOKENIZER = new URL('../../../models/rankmill-nano/tokenizer.json', import.meta.url)

export async function readTexts(file: string): Promise<Texts> {
  return JSON.parse(await readFile(file, 'utf8')) as Texts
}

/** Words of one token each, so that a length in tokens is one in words; a generator of fixed seed draws them. */
export async function writeTexts(file: string, count: number): Promise<void> {
  const tokenizer = JSON.parse(await readFile(TOKENIZER, 'utf8'))
  const words = Object.keys(tokenizer.model.vocab).filter((word) => /^[a-z]{4,}$/.test(word))
  let state = 20
  const word = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return words[state % words.length] ?? ''
  }
  const text = (length: number) => Array.from({ length }, word).join(' ')
  const texts: Texts = {}
  for (const length of LENGTHS) {
    const query = text(QUERY_WORDS)
    texts[length] = Array.from({ length: count }, () => [query, text(length - QUERY_WORDS - 3)])
  }
  await writeFile(file, JSON.stringify(texts))
}
