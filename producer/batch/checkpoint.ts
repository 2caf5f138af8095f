/** How far a run is: what the next one needs to go on, and what the report adds up. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { RunFiles, RunFolder } from './run-folder.js'

const count = z.int().min(0)

const VERSION = 2

const checkpointSchema = z.object({
  version: z.literal(VERSION),
  /** Prefix of the run's request ids in Redis. */
  runId: z.string().min(1),
  input: z.object({
    name: z.string(),
    fingerprint: z.string(),
    /** Device, inode, size and time of the last change of each of its files; empty where not all of it is files. */
    files: z.array(z.string()),
  }),
  /** Everything that the output depends on beyond the input. */
  settings: z.record(z.string(), z.unknown()),
  /** Items up to here are done … */
  mark: z.object({ line: count, offset: count, digest: z.string() }),
  /** … which are so many … */
  items: count,
  /** … and so are these lines further on, from and to. */
  beyond: z.array(z.tuple([count, count])),
  /** What the output holds: all that comes after it was written later. */
  output: z.object({ bytes: count, lines: count, chain: z.string(), digest: z.string(), file: z.string() }),
  /** Number of the claim whose file `merged` takes the output's place; set while it does. */
  merging: count.optional(),
  customIds: count,
  finished: z.boolean(),
  /** It began anew over what was there, as it was told to. */
  overwrote: z.boolean(),
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
  /** What answers of each model have to be from. */
  modelPins: z.record(z.string(), z.object({ fingerprint: z.string(), dtype: z.string().optional() })),
  /** Versions of corpora that the run reads. */
  corpora: z.record(z.string(), z.string()),
  /** What became of models, corpora and options in the course of the run, as it was told to allow. */
  changes: z.array(z.object({ what: z.string(), from: z.unknown(), to: z.unknown(), after: count })),
  startedAt: z.string(),
  endedAt: z.string(),
})

export type Checkpoint = z.output<typeof checkpointSchema>
const NAME = 'checkpoint'

/** @throws RankmillError `output_exists` where there is one that this version does not understand */
export async function readCheckpoint(files: RunFiles): Promise<Checkpoint | undefined> {
  const path = await files.newest(NAME)
  if (path === undefined) return undefined
  const text = await readFile(path, 'utf8')
  try {
    return checkpointSchema.parse(JSON.parse(text))
  } catch (error) {
    const message = `${path}: no checkpoint that this version understands (it writes version ${VERSION})`
    throw new RankmillError('output_exists', message, { param: 'output' }, { cause: error })
  }
}

/** Which checkpoint is the newest, and what it says: another, once somebody has written one. */
export async function newestCheckpoint(files: RunFiles): Promise<string> {
  const path = await files.newest(NAME)
  return path === undefined ? '' : `${path}\n${await readFile(path, 'utf8')}`
}

export async function writeCheckpoint(folder: RunFolder, checkpoint: Checkpoint): Promise<void> {
  await folder.replace(NAME, JSON.stringify(checkpoint))
}
