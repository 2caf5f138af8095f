/** How far a run is: what the next one needs to go on, and what the report adds up. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { RunFolder } from './run-folder.js'

const count = z.int().min(0)

const checkpointSchema = z.object({
  version: z.literal(1),
  /** Prefix of the run's request ids in Redis. */
  runId: z.string().min(1),
  input: z.object({ name: z.string(), fingerprint: z.string() }),
  /** Everything that the output depends on beyond the input. */
  settings: z.record(z.string(), z.unknown()),
  /** Items up to here are done … */
  mark: z.object({ line: count, offset: count, digest: z.string() }),
  /** … and so are these, further on. */
  beyond: z.array(count),
  outputBytes: count,
  customIds: count,
  finished: z.boolean(),
  totals: z.object({
    requests: count,
    failed: count,
    pairs: count,
    scored: count,
    cached: count,
    tokens: count,
    truncated: count,
    seconds: z.number().min(0),
    starts: count,
  }),
  /** Requests by error code. */
  errors: z.record(z.string(), count),
  /** The first that failed. */
  failures: z.array(z.object({ line: count, custom_id: z.string().nullable(), code: z.string(), message: z.string() })),
  /** Requests by time from submission to answer: bucket -> count. */
  latency: z.record(z.string(), count),
  /** Models that answered, as the workers had them loaded. */
  models: z.array(z.object({ name: z.string(), dtype: z.string(), fingerprint: z.string() })),
  /** Versions of corpora that the run reads. */
  corpora: z.record(z.string(), z.string()),
  startedAt: z.string(),
})

export type Checkpoint = z.output<typeof checkpointSchema>
const NAME = 'checkpoint'

export async function readCheckpoint(folder: RunFolder): Promise<Checkpoint | undefined> {
  const path = await folder.newest(NAME)
  if (path === undefined) return undefined
  try {
    return checkpointSchema.parse(JSON.parse(await readFile(path, 'utf8')))
  } catch (error) {
    throw new RankmillError(
      'output_exists',
      `${path}: no checkpoint that this version understands`,
      {},
      { cause: error },
    )
  }
}

export async function writeCheckpoint(folder: RunFolder, checkpoint: Checkpoint): Promise<void> {
  await folder.replace(NAME, JSON.stringify(checkpoint))
}

/**
 * Refuses to go on with another input, or with other options, under the same output.
 *
 * @throws RankmillError `output_exists`
 */
export function checkSameRun(
  output: string,
  before: Checkpoint,
  input: Checkpoint['input'],
  settings: Checkpoint['settings'],
): void {
  if (before.input.fingerprint !== input.fingerprint) {
    const other = `${output}: holds the results of another input (${before.input.name}, ${before.input.fingerprint.slice(0, 12)})`
    throw new RankmillError('output_exists', `${other}; ${input.name} is ${input.fingerprint.slice(0, 12)}`)
  }
  const changed = [...new Set([...Object.keys(before.settings), ...Object.keys(settings)])].filter(
    (name) => JSON.stringify(before.settings[name] ?? null) !== JSON.stringify(settings[name] ?? null),
  )
  if (changed.length === 0) return
  const differences = changed.map(
    (name) =>
      `${name} was ${JSON.stringify(before.settings[name] ?? null)} and is ${JSON.stringify(settings[name] ?? null)}`,
  )
  throw new RankmillError('output_exists', `${output}: was begun with other options: ${differences.join(', ')}`)
}
