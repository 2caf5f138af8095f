/** What slow-reranker.ts reads of texts: words, tokens, pieces of long documents, pairs. */
import type { RerankInput } from '../../producer/index.js'
import type { Options } from '../../shared/options.js'
import type { Batch } from '../../worker/inference/engine.js'
import type { Tokenizer } from '../../worker/tokenize/tokenizer.js'

/** What is read of a document. */
export interface Reading {
  readonly pieces: readonly (readonly number[])[]
  readonly truncated: boolean
}

export class SlowReader {
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: Options,
  ) {}

  tokens(text: string): number[] {
    return Array.from(this.tokenizer.encode(text, 100_000).ids)
  }

  read(query: string, text: string, { maxTokensPerDoc, strategy }: RerankInput): Reading {
    const { before, between, after } = this.tokenizer.template
    const all = this.tokens(text)
    const limit = maxTokensPerDoc ?? Number.POSITIVE_INFINITY
    const space = this.options.maxTokens - before.length - between.length - after.length - this.tokens(query).length
    const room = Math.min(space, limit)
    if (all.length <= room) return { pieces: [all], truncated: false }
    if (strategy?.long_documents === 'snippet')
      return { pieces: [this.tokens(this.snippet(query, text, room)).slice(0, room)], truncated: true }
    if (strategy?.long_documents !== 'windows') return { pieces: [all.slice(0, room)], truncated: true }
    const ids = all.slice(0, Math.min(limit, all.length))
    const step = Math.max(1, space - Math.floor((space * this.options.windowOverlapPercent) / 100))
    const pieces: number[][] = []
    for (let from = 0; pieces.length === 0 || from - step + space < ids.length; from += step) {
      const start = Math.max(0, Math.min(from, ids.length - space))
      pieces.push(ids.slice(start, start + space))
    }
    return { pieces, truncated: ids.length < all.length }
  }

  private snippet(query: string, text: string, room: number): string {
    const sentences = [...new Intl.Segmenter('en', { granularity: 'sentence' }).segment(text)].map((s) => s.segment)
    const having = (term: string) => sentences.filter((sentence) => wordsOf(sentence).includes(term)).length
    const worth = sentences.map((sentence) =>
      [...new Set(wordsOf(query))]
        .filter((term) => wordsOf(sentence).includes(term))
        .reduce((sum, term) => sum + Math.log(1 + sentences.length / having(term)), 0),
    )
    const order = sentences.map((_, i) => i).sort((a, b) => worth[b]! - worth[a]! || a - b)
    const taken: number[] = []
    let free = room
    for (const i of order) {
      const cost = this.tokens(sentences[i]!).length
      if (free < 1 || cost > free) continue
      taken.push(i)
      free -= cost
    }
    if (taken.length === 0) taken.push(order[0]!)
    return taken
      .sort((a, b) => a - b)
      .map((i) => sentences[i])
      .join('')
  }

  /** Special tokens, query, special tokens, document, special tokens. */
  pair(query: string, piece: readonly number[]): Batch {
    const { before, between, after } = this.tokenizer.template
    const first = [...before, ...this.tokens(query), ...between]
    const ids = [...first, ...piece, ...after]
    return {
      size: 1,
      length: ids.length,
      inputIds: BigInt64Array.from(ids, BigInt),
      attentionMask: new BigInt64Array(ids.length).fill(1n),
      tokenTypeIds: BigInt64Array.from(ids, (_, i) => (i < first.length ? 0n : 1n)),
    }
  }
}

/** Okapi BM25 over the request's own candidates. */
export function bm25(query: string, documents: readonly string[]): number[] {
  const texts = documents.map(wordsOf)
  const mean = texts.reduce((sum, words) => sum + words.length, 0) / texts.length
  return texts.map((words) =>
    wordsOf(query).reduce((sum, term) => {
      const having = texts.filter((other) => other.includes(term)).length
      const count = words.filter((word) => word === term).length
      const idf = Math.log(1 + (texts.length - having + 0.5) / (having + 0.5))
      return sum + (idf * count * 2.2) / (count + 1.2 * (0.25 + (0.75 * words.length) / mean))
    }, 0),
  )
}

/** The texts of the test are ASCII. */
function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? []
}
