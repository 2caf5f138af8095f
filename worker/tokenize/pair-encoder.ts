/**
 * Pairs of a query and a passage as token ids. Each distinct text is tokenised once and kept in a bounded cache;
 * a pair is then two copies between the special tokens. Truncation is that of Python `transformers` (the Rust
 * `tokenizers` `truncate_encodings`).
 */
import { LRUCache } from 'lru-cache'
import { RankmillError } from '../../shared/errors.js'
import { placeOf } from './token-positions.js'
import type { EncodedText, Tokenizer } from './tokenizer.js'

export interface EncodedPair {
  readonly ids: Int32Array
  /** Index of the first token with type id 1; ids.length where the model has no second type. */
  readonly secondStart: number
  /** Tokens of the query or the passage were left out. */
  readonly truncated: boolean
  /** Tokens at its beginning that all pairs of the query have in common, as far as that is of use. */
  readonly prefix?: number
}

/** How a passage that is too long for one pair is cut into several. */
export interface WindowRule {
  /** Windows of one passage at most; what lies behind them counts as truncated. */
  readonly maxWindows: number
  /** Share of a window's tokens that the next one has too, 0 to below 1. */
  readonly overlap: number
}

/** Pairs of one query, one behind the other. */
export interface EncodedList {
  /** Of all pairs. */
  readonly ids: Int32Array
  /** Of each pair: its tokens, and where its second type begins. */
  readonly lengths: Int32Array
  readonly secondStarts: Int32Array
  /** 1: tokens of the query or of this passage were left out. */
  readonly truncated: Uint8Array
}

/** What a pair is made of, before it is. */
interface PairPlan {
  readonly second: Int32Array
  readonly firstLength: number
  readonly secondLength: number
  readonly truncated: boolean
}

export interface EncodedWindows {
  /** One pair a window, in the passage's order. */
  readonly pairs: readonly EncodedPair[]
  /** Of each window, its first token and the one behind its last, counted in the passage. */
  readonly spans: readonly (readonly [from: number, to: number])[]
  /** Tokens of the query or the passage are in no window. */
  readonly truncated: boolean
}

export type Truncation = 'longest_first' | 'only_second'

export interface PairEncoderOptions {
  /** Tokens of a pair at most, special tokens included. */
  readonly maxTokens: number
  readonly truncation: Truncation
  /** Bound of the cache of tokenised texts, in tokens. */
  readonly cacheTokens: number
  /** What is put before every query. */
  readonly queryPrompt?: string
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
  readonly maxTokens: number
  private readonly tokenizer: Tokenizer
  private readonly truncation: Truncation
  private readonly queryPrompt: string
  /** Special tokens of a pair. */
  private readonly special: number
  /** Tokens for both segments together. */
  private readonly budget: number
  private readonly cache: LRUCache<string, EncodedText> | null

  /** Throws invalid_configuration when maxTokens leaves no room beside the special tokens. */
  constructor(tokenizer: Tokenizer, options: PairEncoderOptions) {
    const { before, between, after } = tokenizer.template
    this.special = before.length + between.length + after.length
    this.tokenizer = tokenizer
    this.maxTokens = options.maxTokens
    this.truncation = options.truncation
    this.queryPrompt = options.queryPrompt ?? ''
    this.budget = options.maxTokens - this.special
    if (!Number.isInteger(options.maxTokens) || this.budget < 1) {
      throw new RankmillError(
        'invalid_configuration',
        `maxTokens must be a whole number over ${this.special}, the special tokens of a pair; got ${options.maxTokens}`,
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
   * Ids of what is asked and `passage` between the special tokens of the model, at most maxTokens of them.
   *
   * @param maxTokensPerDocument the passage is first cut to so many tokens, which counts as truncated
   * @throws RankmillError invalid_request (param query) under `only_second`, when the query leaves no room for a
   *   passage that has to be cut; the reference refuses the same pairs
   */
  encode(asked: string, passage: string, maxTokensPerDocument?: number): EncodedPair {
    const query = this.queryPrompt + asked
    const first = this.tokens(query)
    const { second, firstLength, secondLength, truncated } = this.plan(query, passage, first, maxTokensPerDocument)
    return this.assemble(first.ids, firstLength, second, secondLength, truncated)
  }

  /**
   * The same of each of some passages, into one array: no pair is an object of its own on its way to another thread.
   *
   * @throws RankmillError as `encode` does
   */
  encodeEach(asked: string, passages: readonly string[], maxTokensPerDocument?: number): EncodedList {
    const query = this.queryPrompt + asked
    const first = this.tokens(query)
    const plans = passages.map((passage) => this.plan(query, passage, first, maxTokensPerDocument))
    const lengths = new Int32Array(plans.length)
    const secondStarts = new Int32Array(plans.length)
    const truncated = new Uint8Array(plans.length)
    let total = 0
    for (const [i, plan] of plans.entries()) {
      const length = this.special + plan.firstLength + plan.secondLength
      lengths[i] = length
      truncated[i] = plan.truncated ? 1 : 0
      total += length
    }
    const ids = new Int32Array(total)
    let at = 0
    for (const [i, { second, firstLength, secondLength }] of plans.entries()) {
      secondStarts[i] = this.write(ids, at, first.ids, firstLength, second, secondLength)
      at += lengths[i] ?? 0
    }
    return { ids, lengths, secondStarts, truncated }
  }

  /**
   * Pairs of what is asked with overlapping windows of `passage`; one where all of it fits. Every window has as many tokens
   * as `encode` would keep of the passage; the last one is moved back to end with the passage.
   *
   * @throws RankmillError as `encode` does
   */
  encodeWindows(asked: string, passage: string, rule: WindowRule, maxTokensPerDocument?: number): EncodedWindows {
    const query = this.queryPrompt + asked
    const first = this.tokens(query)
    const limit = Math.max(0, Math.floor(maxTokensPerDocument ?? Number.POSITIVE_INFINITY))
    const head = this.tokens(passage)
    const [firstLength, room] = this.lengths(query, passage, first, head, limit)
    const queryCut = !first.complete || firstLength < first.ids.length
    if (room < 1 || room >= Math.min(head.ids.length, limit)) {
      const truncated = queryCut || !head.complete || room < head.ids.length
      return {
        pairs: [this.assemble(first.ids, firstLength, head.ids, room, truncated)],
        spans: [[0, room]],
        truncated,
      }
    }
    const step = Math.max(1, room - Math.floor(room * rule.overlap))
    const reach = Math.min(limit, room + (rule.maxWindows - 1) * step)
    const { ids, complete } = this.tokenizer.encode(passage, reach)
    const windows = 1 + Math.ceil((ids.length - room) / step)
    const spans = Array.from({ length: windows }, (_, i): [number, number] => {
      const from = Math.min(i * step, ids.length - room)
      return [from, from + room]
    })
    const truncated = queryCut || !complete
    return {
      pairs: spans.map(([from, to]) => this.assemble(first.ids, firstLength, ids.subarray(from, to), room, truncated)),
      spans,
      truncated,
    }
  }

  /** How many tokens of the passage `encode` would keep, and whether that is all of them. */
  room(asked: string, passage: string, maxTokensPerDocument?: number): { tokens: number; complete: boolean } {
    const query = this.queryPrompt + asked
    const limit = Math.max(0, Math.floor(maxTokensPerDocument ?? Number.POSITIVE_INFINITY))
    const second = this.tokens(passage)
    const [, tokens] = this.lengths(query, passage, this.tokens(query), second, limit)
    return { tokens, complete: second.complete && tokens === second.ids.length }
  }

  /** Number of tokens of a text; `limit + 1` stands for any number over the limit. */
  countTokens(text: string, limit: number): number {
    const { ids, complete } = this.tokenizer.encode(text, limit)
    return complete ? ids.length : limit + 1
  }

  /** Where a span of a passage's tokens begins and ends in its text, in UTF-16 code units (see `tokenEnds`). */
  locate(passage: string, span: readonly [from: number, to: number]): { start: number; end: number } {
    return placeOf(this.tokenizer, passage, span)
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

  private plan(query: string, passage: string, first: EncodedText, maxTokensPerDocument?: number): PairPlan {
    const second = this.tokens(passage)
    const limit = Math.max(0, Math.floor(maxTokensPerDocument ?? Number.POSITIVE_INFINITY))
    const [firstLength, secondLength] = this.lengths(query, passage, first, second, limit)
    const truncated =
      !first.complete || !second.complete || firstLength < first.ids.length || secondLength < second.ids.length
    return { second: second.ids, firstLength, secondLength, truncated }
  }

  private assemble(
    first: Int32Array,
    firstLength: number,
    second: Int32Array,
    secondLength: number,
    truncated: boolean,
  ): EncodedPair {
    const ids = new Int32Array(this.special + firstLength + secondLength)
    const secondStart = this.write(ids, 0, first, firstLength, second, secondLength)
    return { ids, secondStart, truncated }
  }

  /** Puts a pair where it begins. @returns where its second type begins, counted in the pair */
  private write(
    ids: Int32Array,
    from: number,
    first: Int32Array,
    firstLength: number,
    second: Int32Array,
    secondLength: number,
  ): number {
    const { before, between, after, typeIds } = this.tokenizer.template
    const firstAt = before.length
    const betweenAt = firstAt + firstLength
    const secondAt = betweenAt + between.length
    const afterAt = secondAt + secondLength
    ids.set(before, from)
    ids.set(firstLength === first.length ? first : first.subarray(0, firstLength), from + firstAt)
    ids.set(between, from + betweenAt)
    ids.set(secondLength === second.length ? second : second.subarray(0, secondLength), from + secondAt)
    ids.set(after, from + afterAt)
    if (typeIds.before === 1) return 0
    if (typeIds.first === 1) return firstAt
    if (typeIds.between === 1) return betweenAt
    if (typeIds.second === 1) return secondAt
    return typeIds.after === 1 ? afterAt : afterAt + after.length
  }
}
