/**
 * Pairs of a query and a passage as token ids. Each distinct text is tokenised once and kept in a bounded cache;
 * a pair is then two copies between the special tokens. Truncation is that of Python `transformers` (the Rust
 * `tokenizers` `truncate_encodings`).
 */
import { LRUCache } from 'lru-cache'
import { RankmillError } from '../../shared/errors.js'
import type { EncodedText, Tokenizer } from './tokenizer.js'

export interface EncodedPair {
  readonly ids: Int32Array
  /** Index of the first token with type id 1; ids.length where the model has no second type. */
  readonly secondStart: number
  /** Tokens of the query or the passage were left out. */
  readonly truncated: boolean
}

export type Truncation = 'longest_first' | 'only_second'

export interface PairEncoderOptions {
  /** Tokens of a pair at most, special tokens included. */
  readonly maxTokens: number
  readonly truncation: Truncation
  /** Bound of the cache of tokenised texts, in tokens. */
  readonly cacheTokens: number
}

/** What a cached text costs beyond its ids, in tokens of four bytes: the entry, and the text as its key. */
const ENTRY_TOKENS = 64
const UNITS_PER_TOKEN = 4

/** Lengths of both segments after `longest_first` truncation to a budget, as `truncate_encodings` works them out. */
export function longestFirst(first: number, second: number, budget: number): [first: number, second: number] {
  if (first + second <= budget) return [first, second]
  const shorter = Math.min(first, second)
  if (shorter * 2 <= budget) return first <= second ? [shorter, budget - shorter] : [budget - shorter, shorter]
  // Both are cut: the shorter one to half the budget, rounded down.
  const half = Math.floor(budget / 2)
  return first <= second ? [half, budget - half] : [budget - half, half]
}

export class PairEncoder {
  private readonly tokenizer: Tokenizer
  private readonly truncation: Truncation
  /** Tokens for both segments together. */
  private readonly budget: number
  private readonly cache: LRUCache<string, EncodedText> | null

  /** Throws invalid_configuration when maxTokens leaves no room beside the special tokens. */
  constructor(tokenizer: Tokenizer, options: PairEncoderOptions) {
    const { before, between, after } = tokenizer.template
    const special = before.length + between.length + after.length
    this.tokenizer = tokenizer
    this.truncation = options.truncation
    this.budget = options.maxTokens - special
    if (!Number.isInteger(options.maxTokens) || this.budget < 1) {
      throw new RankmillError(
        'invalid_configuration',
        `maxTokens must be a whole number over ${special}, the special tokens of a pair; got ${options.maxTokens}`,
        { param: 'maxTokens' },
      )
    }
    this.cache =
      options.cacheTokens > 0
        ? new LRUCache({
            maxSize: options.cacheTokens,
            sizeCalculation: ({ ids }, text) => ENTRY_TOKENS + ids.length + Math.ceil(text.length / UNITS_PER_TOKEN),
          })
        : null
  }

  /**
   * Ids of `query` and `passage` between the special tokens of the model, at most maxTokens of them.
   *
   * @param maxTokensPerDocument the passage is first cut to so many tokens, which counts as truncated
   * @throws RankmillError invalid_request (param query) under `only_second`, when the query leaves no room for a
   *   passage that has to be cut; the reference refuses the same pairs
   */
  encode(query: string, passage: string, maxTokensPerDocument?: number): EncodedPair {
    const first = this.tokens(query)
    const second = this.tokens(passage)
    const limit = Math.max(0, Math.floor(maxTokensPerDocument ?? Number.POSITIVE_INFINITY))
    const [firstLength, secondLength] = this.lengths(query, passage, first, second, limit)
    const truncated =
      !first.complete || !second.complete || firstLength < first.ids.length || secondLength < second.ids.length
    return this.assemble(first.ids, firstLength, second.ids, secondLength, truncated)
  }

  /** The cached ids of a text: one more than the budget at most, which is enough for every length but equal ones. */
  private tokens(text: string): EncodedText {
    const known = this.cache?.get(text)
    if (known !== undefined) return known
    const encoded = this.tokenizer.encode(text, this.budget + 1)
    this.cache?.set(text, encoded)
    return encoded
  }

  private lengths(
    query: string,
    passage: string,
    first: EncodedText,
    second: EncodedText,
    limit: number,
  ): [first: number, second: number] {
    const { budget } = this
    const firstLength = first.ids.length
    const secondLength = Math.min(second.ids.length, limit)
    if (firstLength + secondLength <= budget) return [firstLength, secondLength]
    if (this.truncation === 'only_second') {
      if (firstLength >= budget) {
        throw new RankmillError(
          'invalid_request',
          `query has ${first.complete ? firstLength : `over ${budget}`} tokens and leaves no room for a document: with ` +
            `truncation only_second it may have at most ${budget - 1}`,
          { param: 'query' },
        )
      }
      return [firstLength, budget - firstLength]
    }
    if (firstLength > budget && secondLength > budget && budget % 2 === 1) {
      // Both over the budget, and it is odd: the longer one gets the spare token, so true lengths must be compared.
      const longer = this.isFirstLonger(query, passage, limit) ? 1 : 0
      return longestFirst(budget + 1 + longer, budget + 1, budget)
    }
    return longestFirst(firstLength, secondLength, budget)
  }

  /** Compares lengths beyond the budget, tokenising no further than the shorter text needs. */
  private isFirstLonger(query: string, passage: string, limit: number): boolean {
    for (let size = (this.budget + 1) * 2; ; size *= 2) {
      const first = this.tokenizer.encode(query, size)
      const second = this.tokenizer.encode(passage, Math.min(size, limit))
      const secondKnown = second.complete || second.ids.length === limit
      if (first.complete && secondKnown) return first.ids.length > second.ids.length
      if (first.complete || secondKnown) return secondKnown
    }
  }

  private assemble(
    first: Int32Array,
    firstLength: number,
    second: Int32Array,
    secondLength: number,
    truncated: boolean,
  ): EncodedPair {
    const { before, between, after, typeIds } = this.tokenizer.template
    const firstAt = before.length
    const betweenAt = firstAt + firstLength
    const secondAt = betweenAt + between.length
    const afterAt = secondAt + secondLength
    const ids = new Int32Array(afterAt + after.length)
    ids.set(before)
    ids.set(firstLength === first.length ? first : first.subarray(0, firstLength), firstAt)
    ids.set(between, betweenAt)
    ids.set(secondLength === second.length ? second : second.subarray(0, secondLength), secondAt)
    ids.set(after, afterAt)
    let secondStart = ids.length
    if (typeIds.before === 1) secondStart = 0
    else if (typeIds.first === 1) secondStart = firstAt
    else if (typeIds.between === 1) secondStart = betweenAt
    else if (typeIds.second === 1) secondStart = secondAt
    else if (typeIds.after === 1) secondStart = afterAt
    return { ids, secondStart, truncated }
  }
}
