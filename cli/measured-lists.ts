/** The lists that a model is measured with before it serves: the user's own, or a sample that ships. */
import { type Command, Option } from 'commander'
import { readLists } from '../producer/tune/list-data.js'
import type { TuningQuery } from '../producer/tune/trial.js'
import { ERRORS } from '../shared/errors.js'
import { OPTIONS, type Options } from '../shared/options.js'
import { QUESTIONS } from './demo/questions.js'
import { numberArgument } from './strategy-flags.js'

export interface ListFlags {
  data?: string
  sample: number
  depth: number
}

export interface MeasuredLists {
  readonly lists: readonly TuningQuery[]
  /** Lists of the same data beside these. */
  readonly others: readonly TuningQuery[]
  /** For reports. */
  readonly name: string
  readonly areOwn: boolean
}

const SAMPLE_LISTS = 4

export function addListFlags(command: Command): Command {
  return command
    .option(
      '--data <path>',
      'measure with: a file of requests, or a folder in BEIR layout (default: a small built-in sample)',
    )
    .addOption(new Option('--sample <n>', 'lists of the data to measure with').argParser(numberArgument(1)).default(20))
    .addOption(new Option('--depth <n>', 'documents of a list').argParser(numberArgument(2)).default(100))
}

/** To be called before anything is written: what cannot be read should not be found out at the end. @throws as `readLists` */
export async function measuredLists({ data, sample, depth }: ListFlags, options: Options): Promise<MeasuredLists> {
  if (data === undefined) return { lists: builtInSample(), others: [], name: 'a small built-in sample', areOwn: false }
  const all = await readLists(data, 2 * sample, depth, options)
  // Every second, where there are so many: data may go by subject.
  const step = all.length < 2 * sample ? 1 : 2
  const lists = all.filter((_, i) => i % step === 0).slice(0, sample)
  const taken = new Set(lists)
  return { lists, others: all.filter((list) => !taken.has(list)), name: data, areOwn: true }
}

/** Options for the engines that measure: how they found their batch shapes is not asked for. */
export function measuringOptions(given: Options): Options {
  return { ...given, logLevel: given.logLevel === 'info' ? 'warn' : given.logLevel }
}

/** Rankmill's own texts: they say that a format works, and little of other data. */
function builtInSample(): TuningQuery[] {
  const texts = [
    ...Object.values(OPTIONS).map(({ help }) => help),
    ...Object.values(ERRORS).map(({ advice }) => advice),
  ]
  const documents = texts.map((text, i) => ({ id: String(i), text }))
  return QUESTIONS.slice(0, SAMPLE_LISTS).map((query) => ({ query, documents, grades: undefined }))
}
