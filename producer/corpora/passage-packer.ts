/** Compresses a stream of passages, with a dictionary learned from its beginning where there is none yet. */
import { learnDictionary } from '../../shared/corpus/dictionary.js'
import { type Dictionary, dictionaryOf, encodeText } from '../../shared/corpus/text-codec.js'
import type { Passage } from './passage-lines.js'

export interface PackedPassage {
  readonly passage: Passage
  readonly value: Buffer
}

/** Held back and learned from, before the first passage goes out. */
const SAMPLE_BYTES = 2_000_000
const SAMPLE_PASSAGES = 20_000

export class PassagePacker {
  #dictionary: Dictionary | undefined

  /** @param dictionary that of the corpus the passages come to; none is learned then */
  constructor(dictionary: Dictionary | undefined) {
    this.#dictionary = dictionary
  }

  /** The dictionary in use, once passages came out; undefined where there were too few to learn one. */
  get dictionary(): Dictionary | undefined {
    return this.#dictionary
  }

  async *pack(passages: AsyncIterable<Passage> | Iterable<Passage>): AsyncGenerator<PackedPassage> {
    let sample: Passage[] | undefined = this.#dictionary ? undefined : []
    let sampleBytes = 0
    for await (const passage of passages) {
      if (!sample) {
        yield this.#packed(passage)
        continue
      }
      sample.push(passage)
      sampleBytes += passage.text.length
      if (sampleBytes < SAMPLE_BYTES && sample.length < SAMPLE_PASSAGES) continue
      this.#learn(sample)
      yield* sample.map((held) => this.#packed(held))
      sample = undefined
    }
    if (!sample) return
    this.#learn(sample)
    yield* sample.map((held) => this.#packed(held))
  }

  #learn(sample: readonly Passage[]): void {
    const learned = learnDictionary(sample.map(({ text }) => Buffer.from(text)))
    this.#dictionary = learned && dictionaryOf(learned)
  }

  #packed(passage: Passage): PackedPassage {
    return { passage, value: encodeText(passage.text, this.#dictionary) }
  }
}
