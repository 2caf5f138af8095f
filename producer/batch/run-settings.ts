/**
 * What the content of an output depends on beyond the input, and so belongs to a run: the options that
 * shared/options.ts marks with `shapesResults`, whether they come from a flag, the environment or a default; the fields
 * that the run fills into requests; and how answers are written.
 */
import { RankmillError } from '../../shared/errors.js'
import { type Options, RESULT_OPTIONS } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'

/** Fields that a run fills in where a request does not say. */
export type RequestFields = Partial<Omit<RerankInput, 'id' | 'query' | 'documents'>>

export type RunSettings = Readonly<Record<string, unknown>>

/** Whether a field changes what is answered, or only when. */
const SHAPES_RESULTS: Readonly<Record<keyof RequestFields, boolean>> = {
  instruction: true,
  model: true,
  topN: true,
  returnDocuments: true,
  maxTokensPerDoc: true,
  strategy: true,
  priority: false,
  deadlineMs: false,
  cacheSpace: false,
  traceParent: false,
}

/** @param format how answers are written: order, columns, compression and the like */
export function runSettings(format: RunSettings, fields: RequestFields, options: Options): RunSettings {
  const shaping = Object.entries(fields).filter(([name]) => SHAPES_RESULTS[name as keyof RequestFields])
  const all = [...RESULT_OPTIONS.map((name) => [name, options[name]] as const), ...Object.entries(format), ...shaping]
  return Object.fromEntries(all.filter(([, value]) => value !== undefined))
}

export interface SettingChange {
  readonly name: string
  readonly from: unknown
  readonly to: unknown
}

function changedSettings(before: RunSettings, now: RunSettings): SettingChange[] {
  return [...new Set([...Object.keys(before), ...Object.keys(now)])]
    .map((name) => ({ name, from: before[name] ?? null, to: now[name] ?? null }))
    .filter(({ from, to }) => JSON.stringify(from) !== JSON.stringify(to))
}

/**
 * Refuses to go on with other options.
 *
 * @param mayChangeModel those of the workers may be others
 * @returns what has changed all the same
 * @throws RankmillError `output_exists`, with names and both values
 */
export function checkSameSettings(
  output: string,
  before: RunSettings,
  now: RunSettings,
  mayChangeModel: boolean,
): SettingChange[] {
  const changed = changedSettings(before, now)
  const refused = changed.filter(({ name }) => !mayChangeModel || !isOfWorkers(name))
  if (refused.length === 0) return changed
  const differences = refused.map(
    ({ name, from, to }) => `${name} was ${JSON.stringify(from)} and is ${JSON.stringify(to)}`,
  )
  throw new RankmillError('output_exists', `${output}: was begun with other options: ${differences.join(', ')}`)
}

function isOfWorkers(name: string): boolean {
  return (RESULT_OPTIONS as readonly string[]).includes(name)
}
