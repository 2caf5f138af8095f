/** The work on texts itself: tokenising, cutting into windows and sentences, counting terms. It runs on a thread of its own. */
import { openBound } from '../model/bound-files.js'
import type { SavedKind } from '../model/sentence-transformers.js'
import { ChatPrompt } from '../tokenize/chat-prompt.js'
import { type EncodedList, type EncodedPair, PairEncoder } from '../tokenize/pair-encoder.js'
import { PromptEncoder } from '../tokenize/prompt-encoder.js'
import type { Tokenizer } from '../tokenize/tokenizer.js'
import { snippetOf } from './snippet.js'
import { termsOf } from './terms.js'
import {
  type EncoderSettings,
  type PairsOutput,
  type PairsTask,
  type PlacesOutput,
  type PlacesTask,
  SNIPPET,
  type TermsOutput,
  type TermsTask,
  type TextOutput,
  type TextOutputs,
  type TextsOutput,
  type TextsTask,
  type TextTask,
  TRUNCATED,
  WINDOWS,
} from './text-tasks.js'

/** A tokeniser, and the pairs that are made with it. */
interface Desk {
  readonly tokenizer: Tokenizer
  /** @param instruction of a request; only models with a prompt have a place for it */
  encoder(instruction?: string | null): PairEncoder | PromptEncoder
}

/** One passage's pairs. */
interface Encoded {
  readonly pairs: readonly EncodedPair[]
  readonly flags: number
  readonly spans?: readonly (readonly [from: number, to: number])[]
}

export class TextWork {
  readonly #load: (folder: string, savedAs?: SavedKind) => Promise<Tokenizer>
  readonly #share: number
  readonly #tokenizers = new Map<string, Promise<Tokenizer>>()
  readonly #desks = new Map<string, Promise<Desk>>()

  /**
   * @param load the tokeniser of a model's folder
   * @param share of the caches' bounds
   */
  constructor(load: (folder: string, savedAs?: SavedKind) => Promise<Tokenizer>, share: number) {
    this.#load = load
    this.#share = share
  }

  /** @throws RankmillError of the tokeniser or the encoder */
  async run<T extends TextTask>(task: T): Promise<TextOutput<T>> {
    return (await this.#run(task)) as TextOutput<T>
  }

  async #run(task: TextTask): Promise<TextOutputs[keyof TextOutputs]> {
    switch (task.kind) {
      case 'split':
        return { terms: termsOf(task.text) }
      case 'terms':
        return countTerms(task)
      case 'open':
        await this.#desk(task.encoder)
        return {}
      case 'pairs':
        return encodePairs(task, await this.#desk(task.encoder))
      case 'places':
        return findPlaces(task, await this.#desk(task.encoder))
      case 'texts':
        return encodeTexts(task, await this.#desk(task.encoder))
    }
  }

  #desk(settings: EncoderSettings): Promise<Desk> {
    return remembered(this.#desks, JSON.stringify(settings), async () => {
      const { folder, savedAs, files = [] } = settings
      const load = () => openBound(files, () => this.#load(folder, savedAs))
      const tokenizer = await remembered(this.#tokenizers, `${savedAs} ${folder}`, load)
      const cacheTokens = Math.floor(settings.cacheTokens * this.#share)
      if (settings.prompt) {
        const prompt = new ChatPrompt(settings.prompt)
        return {
          tokenizer,
          encoder: (instruction = null) => new PromptEncoder(tokenizer, prompt, { ...settings, instruction }),
        }
      }
      const encoder = new PairEncoder(tokenizer, { ...settings, cacheTokens })
      return { tokenizer, encoder: () => encoder }
    })
  }
}

/** What fails is not remembered: the files may be mended. */
function remembered<V>(known: Map<string, Promise<V>>, key: string, make: () => Promise<V>): Promise<V> {
  const found = known.get(key)
  if (found) return found
  const making = make()
  known.set(key, making)
  making.catch(() => known.delete(key))
  return making
}

function encodePairs({ query, instruction, passages, mode, limit, windows }: PairsTask, desk: Desk): PairsOutput {
  const encoder = desk.encoder(instruction)
  const most = limit ?? undefined
  if (mode === 'truncate' && encoder instanceof PairEncoder) {
    return oneEach(encoder.encodeEach(query, passages, most))
  }
  const encoded = passages.map((passage): Encoded => {
    if (mode === 'windows') {
      const { pairs, spans, truncated } = encoder.encodeWindows(query, passage, windows, most)
      const isPart = spans.length > 1 || truncated
      return { pairs, flags: (truncated ? TRUNCATED : 0) | (isPart ? WINDOWS : 0), spans }
    }
    if (mode === 'snippet') {
      const { tokens, complete } = encoder.room(query, passage, most)
      if (!complete && tokens >= 1) {
        const snippet = snippetOf(query, passage, tokens, (text) => encoder.countTokens(text, tokens))
        return { pairs: [encoder.encode(query, snippet, most)], flags: TRUNCATED | SNIPPET }
      }
    }
    const pair = encoder.encode(query, passage, most)
    return { pairs: [pair], flags: pair.truncated ? TRUNCATED : 0 }
  })
  const pairs = encoded.flatMap((one) => one.pairs)
  const spans = encoded.flatMap((one) => one.spans ?? [])
  return {
    ...joined(pairs.map(({ ids }) => ids)),
    secondStarts: Int32Array.from(pairs, ({ secondStart }) => secondStart),
    ...(encoder instanceof PromptEncoder ? { prefixes: Int32Array.from(pairs, ({ prefix = 0 }) => prefix) } : {}),
    counts: Int32Array.from(encoded, (one) => one.pairs.length),
    flags: Uint8Array.from(encoded, ({ flags }) => flags),
    spans: Int32Array.from(spans.flat()),
  }
}

/** What nearly all tasks come to, without what only windows and snippets need. */
function oneEach({ truncated, ...pairs }: EncodedList): PairsOutput {
  return {
    ...pairs,
    counts: new Int32Array(truncated.length).fill(1),
    flags: truncated.map((cut) => (cut ? TRUNCATED : 0)),
    spans: new Int32Array(0),
  }
}

function findPlaces({ passages, spans }: PlacesTask, desk: Desk): PlacesOutput {
  const encoder = desk.encoder()
  const places = new Int32Array(2 * passages.length)
  for (const [i, passage] of passages.entries()) {
    const { start, end } = encoder.locate(passage, [spans[2 * i] ?? 0, spans[2 * i + 1] ?? 0])
    places[2 * i] = start
    places[2 * i + 1] = end
  }
  return { places }
}

/** Each text between the special tokens that stand around a pair, as around a single text. */
function encodeTexts({ passages, encoder: { maxTokens } }: TextsTask, { tokenizer }: Desk): TextsOutput {
  const { before, after } = tokenizer.template
  const room = Math.max(0, maxTokens - before.length - after.length)
  return joined(
    passages.map((passage) => {
      const { ids } = tokenizer.encode(passage, room)
      const all = new Int32Array(before.length + ids.length + after.length)
      all.set(before)
      all.set(ids, before.length)
      all.set(after, before.length + ids.length)
      return all
    }),
  )
}

function countTerms({ terms: wanted, passages }: TermsTask): TermsOutput {
  const places = new Map(wanted.map((term, place) => [term, place]))
  const lengths = new Int32Array(passages.length)
  const counts = new Int32Array(passages.length)
  const found: number[] = []
  const times: number[] = []
  for (const [p, passage] of passages.entries()) {
    const own = new Map<number, number>()
    for (const term of termsOf(passage)) {
      lengths[p] = (lengths[p] ?? 0) + 1
      const place = places.get(term)
      if (place !== undefined) own.set(place, (own.get(place) ?? 0) + 1)
    }
    counts[p] = own.size
    for (const [place, count] of [...own].sort(([a], [b]) => a - b)) {
      found.push(place)
      times.push(count)
    }
  }
  return { lengths, counts, terms: Int32Array.from(found), times: Int32Array.from(times) }
}

function joined(lists: readonly Int32Array[]): TextsOutput {
  // A loop: `from` with a function takes several times as long.
  const lengths = new Int32Array(lists.length)
  let total = 0
  for (let i = 0; i < lists.length; i++) {
    const length = lists[i]?.length ?? 0
    lengths[i] = length
    total += length
  }
  const ids = new Int32Array(total)
  let at = 0
  for (const list of lists) {
    ids.set(list, at)
    at += list.length
  }
  return { ids, lengths }
}
