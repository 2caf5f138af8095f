/** Texts for int8: some to measure activations on, and others, held out, to compare its scores with fp32's on. */
import type { TuningQuery } from '../producer/tune/trial.js'
import type { MeasuringTexts } from '../worker/offline/text-ids.js'
import { packagesFolder, readPassages } from './demo/passages.js'
import { QUESTIONS } from './demo/questions.js'
import type { MeasuredLists } from './measured-lists.js'

/** Pairs to measure on. */
const MEASURED = 160
const HELD_OUT_LISTS = 8
const HELD_OUT_DOCUMENTS = 32
/** Fewer pairs of the user's say too little by themselves. */
const ENOUGH = 96
const QUERY_WORDS = 8

/**
 * The docs of the packages that Rankmill stands on, which are on every machine; of the user's data what is measured with afterwards is
 * held out here, and steps are measured on lists that are not.
 */
export async function measuringTexts({ lists, others, areOwn }: MeasuredLists): Promise<MeasuringTexts> {
  const passages = (await readPassages(packagesFolder())).map(({ text }) => text)
  const [measured, heldOut] = [0, 1].map((side) => passages.filter((_, i) => i % 2 === side))
  const own = spread(
    others.flatMap(({ query, documents }) => documents.map(({ text }) => [query, text] as const)),
    MEASURED,
  )
  const some = spread(measured ?? [], MEASURED)
  // Every second with a query of its own words, the others with one of another's.
  const pairs = some.map((text, i) => [wordsOf(some[i - (i % 2)] ?? text), text] as const)
  const ownLists = areOwn ? spread(lists, HELD_OUT_LISTS).map(listOf) : []
  const ownPairs = ownLists.reduce((sum, { documents }) => sum + documents.length, 0)
  const builtIn = QUESTIONS.slice(0, HELD_OUT_LISTS).map((query) => ({ query, documents: near(query, heldOut ?? []) }))
  return { measured: [...own, ...pairs], heldOut: ownPairs >= ENOUGH ? ownLists : [...ownLists, ...builtIn] }
}

function listOf({ query, documents }: TuningQuery): { query: string; documents: string[] } {
  return { query, documents: spread(documents, HELD_OUT_DOCUMENTS).map(({ text }) => text) }
}

function spread<T>(all: readonly T[], count: number): T[] {
  return all.length <= count ? [...all] : all.filter((_, i) => (i * count) % all.length < count)
}

/** Some words out of the middle of a passage. */
function wordsOf(text: string): string {
  const words = text.split(/\s+/)
  const start = Math.max(0, Math.floor((words.length - QUERY_WORDS) / 2))
  return words.slice(start, start + QUERY_WORDS).join(' ')
}

/** Passages that share most words with a question: as candidates are, alike. */
function near(question: string, passages: readonly string[]): string[] {
  const asked = question.split(' ').filter((word) => word.length > 3)
  const shared = (text: string) => asked.filter((word) => text.includes(word)).length
  const ranked = passages.map((text) => ({ text, count: shared(text) })).sort((a, b) => b.count - a.count)
  return ranked.slice(0, HELD_OUT_DOCUMENTS).map(({ text }) => text)
}
