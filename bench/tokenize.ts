/**
 * Encoded pairs per second, cached and not, against the JavaScript library @huggingface/tokenizers on the same pairs
 * in the same run. Run on one core; medians of the rounds.
 *
 *     node dist/bench/tokenize.js
 */
import { readFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import { PairEncoder } from '../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../worker/tokenize/tokenizer.js'

const FOLDERS = {
  'BERT WordPiece': process.argv[2] ?? 'models/rankmill-small',
  Unigram: 'test/golden/tokenize/unigram',
  'byte-level BPE': 'test/golden/tokenize/bpe',
}
const ROUNDS = 9
const PASSAGES = 1000
const WORDS = 85
const MAX_TOKENS = 128
const QUERY = 'how do I retry a failed job with a growing delay and keep what it has done'

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? 0
}

/** Calls a second, from the median time of a round. */
function rate(calls: number, round: () => void): number {
  const times = Array.from({ length: ROUNDS }, () => {
    const start = performance.now()
    round()
    return performance.now() - start
  })
  return (calls * 1000) / median(times)
}

async function passages(): Promise<string[]> {
  const packages = ['bullmq', 'fastify', 'ioredis', 'lru-cache', 'prom-client', 'cli-table3']
  const readmes = packages.map((name) => readFile(path.resolve('node_modules', name, 'README.md'), 'utf8'))
  const words = (await Promise.all(readmes)).join('\n').split(/(?<=\s)(?=\S)/)
  const step = (words.length - WORDS) / PASSAGES
  return Array.from({ length: PASSAGES }, (_, index) => {
    const start = Math.floor(index * step)
    return words.slice(start, start + WORDS).join('')
  })
}

const texts = await passages()
console.log(
  `${PASSAGES} passages of ${WORDS} words, query of ${QUERY.split(' ').length}, cap ${MAX_TOKENS} tokens; ` +
    `median of ${ROUNDS} rounds; Node ${process.version}, ${cpus()[0]?.model}, one core`,
)
for (const [name, folder] of Object.entries(FOLDERS)) {
  const tokenizer = await loadTokenizer(path.resolve(folder))
  const options = { maxTokens: MAX_TOKENS, truncation: 'longest_first', cacheTokens: 10_000_000 } as const
  const definition = JSON.parse(await readFile(path.resolve(folder, 'tokenizer.json'), 'utf8')) as object
  const config = JSON.parse(await readFile(path.resolve(folder, 'tokenizer_config.json'), 'utf8')) as object
  const library = new LibraryTokenizer(definition, config)

  const uncached = rate(PASSAGES, () => {
    const encoder = new PairEncoder(tokenizer, options)
    for (const text of texts) encoder.encode(QUERY, text)
  })
  const warm = new PairEncoder(tokenizer, options)
  const cached = rate(PASSAGES * 20, () => {
    for (let again = 0; again < 20; again += 1) {
      for (const text of texts) warm.encode(QUERY, text)
    }
  })
  const theirs = rate(PASSAGES, () => {
    for (const text of texts) library.encode(QUERY, { text_pair: text })
  })
  // Alone and uncut, since the library does not truncate pairs: how often it agrees with the checked ids.
  const same = texts.filter((text) => {
    const ids = library.encode(text, { add_special_tokens: false }).ids
    return ids.join() === tokenizer.encode(text, 100_000).ids.join()
  })
  const figures = { cached, uncached, 'JavaScript library': theirs }
  const columns = Object.entries(figures).map(
    ([label, value]) => `${label} ${Math.round(value).toLocaleString('en')}/s`,
  )
  console.log(`${name}: ${columns.join(', ')}; library agrees on ${same.length} of ${PASSAGES} passages`)
}
