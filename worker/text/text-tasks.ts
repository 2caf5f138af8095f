/** What is asked of whoever works on texts, and what comes back: plain data that goes from thread to thread. */
import type { LongDocuments } from '../../shared/protocol/strategy.js'
import type { Urgency } from '../batching/urgency.js'
import type { BoundFile } from '../model/bound-files.js'
import type { SavedKind } from '../model/sentence-transformers.js'
import type { PromptSettings } from '../tokenize/chat-prompt.js'
import type { Truncation, WindowRule } from '../tokenize/pair-encoder.js'

/** Which tokeniser, and how pairs are made of its ids. */
export interface EncoderSettings {
  /** Of the model. */
  readonly folder: string
  /** What sentence-transformers would load the folder as; default: a cross-encoder. */
  readonly savedAs?: SavedKind
  /** What has to be unchanged when the tokeniser is read. */
  readonly files?: readonly BoundFile[]
  /** Put before every query. */
  readonly queryPrompt?: string
  /** Of a model that reads pairs in a chat template. */
  readonly prompt?: PromptSettings
  /** Tokens of a pair at most, special tokens included. */
  readonly maxTokens: number
  readonly truncation: Truncation
  /** Bound of the cache of tokenised texts, in tokens. */
  readonly cacheTokens: number
}

/** Loads a tokeniser, so that what is wrong with it is known before the first text. */
export interface OpenTask {
  readonly kind: 'open'
  readonly encoder: EncoderSettings
}

/** A query with each of some passages. */
export interface PairsTask {
  readonly kind: 'pairs'
  readonly encoder: EncoderSettings
  readonly query: string
  /** For models with a prompt; null: the model's own. */
  readonly instruction?: string | null
  readonly passages: readonly string[]
  readonly mode: LongDocuments
  /** Tokens of a passage at most; null: as many as fit. */
  readonly limit: number | null
  readonly windows: WindowRule
}

export interface PairsOutput {
  /** Of all pairs, one behind the other. */
  readonly ids: Int32Array
  /** Tokens of each pair, and where its second type begins. */
  readonly lengths: Int32Array
  readonly secondStarts: Int32Array
  /** Of prompts: the tokens at the beginning of each that all of the query have. */
  readonly prefixes?: Int32Array
  /** Pairs of each passage. */
  readonly counts: Int32Array
  /** Of each passage: TRUNCATED, SNIPPET and WINDOWS. */
  readonly flags: Uint8Array
  /** Of each pair of a passage that is read in windows: its tokens there, from and to. */
  readonly spans: Int32Array
}

export const TRUNCATED = 1
export const SNIPPET = 2
/** Its windows are not the whole text: where they are has to be looked up. */
export const WINDOWS = 4

/** Where spans of passages' tokens are in their texts. */
export interface PlacesTask {
  readonly kind: 'places'
  readonly encoder: EncoderSettings
  readonly passages: readonly string[]
  /** From and to, for each passage. */
  readonly spans: Int32Array
}

export interface PlacesOutput {
  /** Start and end of each, in UTF-16 code units. */
  readonly places: Int32Array
}

/** Single texts between the special tokens. */
export interface TextsTask {
  readonly kind: 'texts'
  readonly encoder: EncoderSettings
  readonly passages: readonly string[]
}

export interface TextsOutput {
  readonly ids: Int32Array
  readonly lengths: Int32Array
}

/** How often a query's terms are in passages. */
export interface TermsTask {
  readonly kind: 'terms'
  /** Distinct. */
  readonly terms: readonly string[]
  readonly passages: readonly string[]
}

export interface TermsOutput {
  /** Terms of each passage, whichever they are. */
  readonly lengths: Int32Array
  /** How many of the query's terms each passage has. */
  readonly counts: Int32Array
  /** Which they are, ascending, and how often. */
  readonly terms: Int32Array
  readonly times: Int32Array
}

/** The terms of one text. */
export interface SplitTask {
  readonly kind: 'split'
  readonly text: string
}

export interface SplitOutput {
  readonly terms: readonly string[]
}

export type TextTask = OpenTask | PairsTask | PlacesTask | TextsTask | TermsTask | SplitTask

export interface TextOutputs {
  open: object
  pairs: PairsOutput
  places: PlacesOutput
  texts: TextsOutput
  terms: TermsOutput
  split: SplitOutput
}
export type TextOutput<T extends TextTask> = TextOutputs[T['kind']]

/** Does what is asked, the most urgent first. */
export interface TextRunner {
  /** @throws RankmillError of the tokeniser or the encoder, `worker_lost`, `closed`; or the signal's reason */
  run<T extends TextTask>(task: T, urgency: Urgency, signal: AbortSignal): Promise<TextOutput<T>>
  close(): Promise<void>
}

/** UTF-16 code units of one task, or one text: some ten milliseconds of work. */
const TASK_UNITS = 65_536
/** Texts of one task. */
const TASK_TEXTS = 256

/** Texts in their order, in pieces that are tasks of their own: where each begins and ends. */
export function* tasksOf(texts: readonly string[]): Iterable<readonly [from: number, to: number]> {
  let from = 0
  let units = 0
  for (const [place, text] of texts.entries()) {
    if (place > from && (units + text.length > TASK_UNITS || place - from >= TASK_TEXTS)) {
      yield [from, place]
      from = place
      units = 0
    }
    units += text.length
  }
  if (from < texts.length) yield [from, texts.length]
}
