/**
 * Prompts of a query and a passage as token ids, as sentence-transformers makes them of a chat template: the filled template
 * is tokenised as one text, cut behind as many tokens as fit, and ends with the template's end whatever was cut.
 */
import { RankmillError } from '../../shared/errors.js'
import { ChatPrompt, type PromptSettings } from './chat-prompt.js'
import type { EncodedPair, EncodedWindows, Truncation, WindowRule } from './pair-encoder.js'
import { placeOf, tokenEnds } from './token-positions.js'
import type { Tokenizer } from './tokenizer.js'

export interface PromptEncoderOptions {
  /** Tokens of a prompt at most. */
  readonly maxTokens: number
  readonly truncation: Truncation
  /** Of the request; null: the model's own. */
  readonly instruction: string | null
}

/** What stands around the passages of a query. */
interface Frame {
  readonly query: string
  /** The tokens that every prompt of the query begins with. */
  readonly prefix: Int32Array
  /** Those that every prompt ends with. */
  readonly suffix: Int32Array
  /** Tokens of the prompt without a passage. */
  readonly tokens: number
}

/** Texts whose first characters join what stands before them in different ways, if they do at all. */
const BEGINNINGS = ['0', 'a', 'A', ' a', '\n', '.', '東', '']
/** What the end of a template is known by: whatever is the same behind both. */
const FILLERS = ['0', '1 2 3 4'] as const
/** More than any template with fillers has. */
const FILLED_TOKENS = 1 << 16
/** Fewer are not worth a call of their own. */
const LEAST_PREFIX = 8
/** Tokens that a part of a text may have more when it stands alone. */
const SLACK = 2

export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #prompt: ChatPrompt
  readonly #options: PromptEncoderOptions
  #frame: Frame | undefined

  constructor(tokenizer: Tokenizer, prompt: PromptSettings | ChatPrompt, options: PromptEncoderOptions) {
    this.#tokenizer = tokenizer
    this.#prompt = prompt instanceof ChatPrompt ? prompt : new ChatPrompt(prompt)
    this.#options = options
  }

  /**
   * @param maxTokensPerDocument the passage is first cut to so many tokens, which counts as truncated
   * @throws RankmillError `invalid_request` (param query) under `only_second`, when the query leaves no room for a passage;
   *   `invalid_model` where the template cannot be filled
   */
  encode(query: string, passage: string, maxTokensPerDocument?: number): EncodedPair {
    const frame = this.#frameOf(query)
    const text = this.#beginning(passage, maxTokensPerDocument)
    const { maxTokens } = this.#options
    const { ids, complete } = this.#tokens(query, text, maxTokens)
    const { suffix } = frame
    // Those that are as long as may be are given the end too: the reference cannot tell that they were not cut.
    if (ids.length >= maxTokens)
      ids.set(suffix.subarray(Math.max(0, suffix.length - ids.length)), Math.max(0, ids.length - suffix.length))
    const truncated = !complete || text.length < passage.length
    if (!complete && this.#options.truncation === 'only_second' && frame.tokens >= maxTokens)
      throw noRoom(frame.tokens, maxTokens)
    return { ids, secondStart: ids.length, truncated, prefix: sharedWith(ids, frame.prefix) }
  }

  /** Prompts of overlapping windows of a passage; one where all of it fits. See `PairEncoder.encodeWindows`. */
  encodeWindows(query: string, passage: string, rule: WindowRule, maxTokensPerDocument?: number): EncodedWindows {
    const whole = this.encode(query, passage, maxTokensPerDocument)
    const limit = limitOf(maxTokensPerDocument)
    const room = Math.min(limit, Math.max(0, this.#options.maxTokens - this.#frameOf(query).tokens - SLACK))
    const single = (tokens: number): EncodedWindows => {
      return { pairs: [whole], spans: [[0, tokens]], truncated: whole.truncated }
    }
    if (!whole.truncated) return single(this.#tokenizer.encode(passage, this.#options.maxTokens).ids.length)
    if (room < 1 || room >= limit) return single(Math.min(room, limit))
    const step = Math.max(1, room - Math.floor(room * rule.overlap))
    const { ids, complete } = this.#tokenizer.encode(passage, Math.min(limit, room + (rule.maxWindows - 1) * step))
    const count = Math.min(rule.maxWindows, 1 + Math.ceil(Math.max(0, ids.length - room) / step))
    const spans = Array.from({ length: count }, (_, i): [number, number] => {
      const from = Math.max(0, Math.min(i * step, ids.length - room))
      return [from, Math.min(ids.length, from + room)]
    })
    const edges = [...new Set(spans.flat())].sort((a, b) => a - b)
    const ends = tokenEnds(this.#tokenizer, passage, ids, edges)
    const at = new Map(edges.map((edge, i) => [edge, ends[i] ?? passage.length]))
    const pairs = spans.map(([from, to]) =>
      this.encode(query, passage.slice(from === 0 ? 0 : at.get(from), at.get(to))),
    )
    return { pairs, spans, truncated: !complete || pairs.some((pair) => pair.truncated) }
  }

  /** How many tokens of the passage `encode` would keep, and whether that is all of them. */
  room(query: string, passage: string, maxTokensPerDocument?: number): { tokens: number; complete: boolean } {
    const { truncated } = this.encode(query, passage, maxTokensPerDocument)
    const free = Math.max(0, this.#options.maxTokens - this.#frameOf(query).tokens - SLACK)
    return { tokens: Math.min(free, limitOf(maxTokensPerDocument)), complete: !truncated }
  }

  /** Number of tokens of a text; `limit + 1` stands for any number over the limit. */
  countTokens(text: string, limit: number): number {
    const { ids, complete } = this.#tokenizer.encode(text, limit)
    return complete ? ids.length : limit + 1
  }

  /** Where a span of a passage's tokens begins and ends in its text, in UTF-16 code units. */
  locate(passage: string, span: readonly [from: number, to: number]): { start: number; end: number } {
    return placeOf(this.#tokenizer, passage, span)
  }

  #beginning(passage: string, maxTokens: number | undefined): string {
    const limit = limitOf(maxTokens)
    if (limit === Number.POSITIVE_INFINITY) return passage
    const { ids, complete } = this.#tokenizer.encode(passage, limit)
    if (complete) return passage
    const [end = passage.length] = tokenEnds(this.#tokenizer, passage, ids, [limit])
    return passage.slice(0, end)
  }

  #tokens(query: string, passage: string, most: number) {
    let text: string
    try {
      text = this.#prompt.render(query, passage, this.#options.instruction)
    } catch (cause) {
      throw new RankmillError(
        'invalid_model',
        `the chat template cannot be filled: ${(cause as Error).message}`,
        {},
        { cause },
      )
    }
    return this.#tokenizer.encode(text, most)
  }

  #frameOf(query: string): Frame {
    if (this.#frame?.query === query) return this.#frame
    const { maxTokens } = this.#options
    const [first = new Int32Array(), ...others] = BEGINNINGS.map((text) => this.#tokens(query, text, maxTokens).ids)
    const shared = others.reduce((least, ids) => Math.min(least, equalFrom(first, ids)), first.length)
    // The fillers stand for the query too, which ends most templates' reach; an instruction is kept.
    const [one, two] = FILLERS.map((text) => this.#tokens(text, text, FILLED_TOKENS).ids)
    const same = one && two ? equalToEnd(one, two) : 0
    const known =
      one && two && same < Math.min(one.length, two.length) ? one.slice(one.length - same) : new Int32Array()
    const tokens = this.#tokens(query, '', maxTokens).ids.length
    this.#frame = { query, prefix: first.slice(0, shared), suffix: known, tokens }
    return this.#frame
  }
}

function limitOf(maxTokens: number | undefined): number {
  return Math.max(0, Math.floor(maxTokens ?? Number.POSITIVE_INFINITY))
}

/** How many tokens of its prompt a row has in common with all others of the query; 0 where it begins otherwise. */
function sharedWith(ids: Int32Array, prefix: Int32Array): number {
  const { length } = prefix
  return length >= LEAST_PREFIX && length < ids.length && equalFrom(ids, prefix) === length ? length : 0
}

function equalFrom(a: Int32Array, b: Int32Array): number {
  let count = 0
  while (count < a.length && count < b.length && a[count] === b[count]) count++
  return count
}

function equalToEnd(a: Int32Array, b: Int32Array): number {
  let count = 0
  while (count < a.length && count < b.length && a.at(-1 - count) === b.at(-1 - count)) count++
  return count
}

function noRoom(tokens: number, most: number): RankmillError {
  const message = `query has a prompt of ${tokens >= most ? `${most} or more` : tokens} tokens without a document, and leaves no room for one: truncation is only_second, and the model reads ${most}`
  return new RankmillError('invalid_request', message, { param: 'query' })
}
