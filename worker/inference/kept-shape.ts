/** What calibration found on this machine, kept for the next start: for a month, or, where others kept it busy, for minutes. */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { writeWhole } from '../model/bound-files.js'
import type { ModelFiles } from '../model/model.js'
import type { FixedShape } from './batch-shape.js'

/** Drivers, kernels and neighbours change. */
const KEPT_MS = 30 * 86_400_000
/** What a busy machine said is good enough to begin with. */
const BUSY_KEPT_MS = 600_000
const FOLDER = 'calibration'
/** Version of what is kept. */
const VERSION = 2
const BUSY_SAMPLE_MS = 60
/** Of the cores, that others use. */
const BUSY_SHARE = 0.25

const keptSchema = z.object({
  shape: z.object({
    sessions: z.int().positive(),
    threadsPerSession: z.int().positive(),
    batchPairs: z.int().positive(),
    batchTokens: z.int().positive(),
  }),
  model: z.string(),
  dtype: z.string(),
  device: z.string(),
  threads: z.int().positive(),
  /** Padded tokens of all sessions together. */
  tokensPerSecond: z.number(),
  /** Milliseconds of the epoch. */
  measuredAt: z.number(),
  /** Whether other processes used the cores meanwhile. */
  busy: z.boolean(),
})
export type KeptShape = z.output<typeof keptSchema>

interface Place {
  readonly device: string
  readonly threads: number
  readonly cacheDir: string
}

/** One file for everything that the best shape depends on. */
export function shapeFile(model: ModelFiles, { device, threads, cacheDir }: Place, fixed: FixedShape): string {
  const runtime = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }
  const conditions = [VERSION, model.fingerprint, device, cpus()[0]?.model ?? '', threads, runtime.version, fixed]
  const key = createHash('sha256').update(JSON.stringify(conditions)).digest('hex').slice(0, 32)
  return join(cacheDir, FOLDER, `${key}.json`)
}

/** undefined where there is none, it is damaged, or its time is over. */
export async function readShape(file: string, now: number): Promise<KeptShape | undefined> {
  const kept = await readAnyShape(file)
  return kept && now < kept.measuredAt + (kept.busy ? BUSY_KEPT_MS : KEPT_MS) ? kept : undefined
}

export async function keepShape(file: string, kept: KeptShape): Promise<void> {
  await writeWhole(file, JSON.stringify(kept))
}

/** Has it measured anew at the next start. */
export async function outdateShape(file: string): Promise<void> {
  const kept = await readAnyShape(file)
  if (kept) await keepShape(file, { ...kept, measuredAt: 0 })
}

/** All that are kept in a cache folder, those whose time is over included. */
export async function listShapes(cacheDir: string): Promise<KeptShape[]> {
  const folder = join(cacheDir, FOLDER)
  const names = await readdir(folder).catch(() => [])
  const read = await Promise.all(names.map((name) => readAnyShape(join(folder, name))))
  return read.filter((kept) => kept !== undefined).sort((a, b) => b.measuredAt - a.measuredAt)
}

async function readAnyShape(file: string): Promise<KeptShape | undefined> {
  try {
    return keptSchema.parse(JSON.parse(await readFile(file, 'utf8')))
  } catch {
    return undefined
  }
}

/** Whether other processes use a good part of the cores, as seen over a moment. */
export async function isBusy(): Promise<boolean> {
  const before = coreTimes()
  const own = process.cpuUsage()
  await delay(BUSY_SAMPLE_MS)
  const after = coreTimes()
  const { user, system } = process.cpuUsage(own)
  const span = after.all - before.all
  if (span <= 0) return false
  const others = after.used - before.used - (user + system) / 1000
  return others / span > BUSY_SHARE
}

/** Milliseconds since the machine was started, of all cores. */
function coreTimes(): { all: number; used: number } {
  let [all, used] = [0, 0]
  for (const { times } of cpus()) {
    const working = times.user + times.nice + times.sys + times.irq
    used += working
    all += working + times.idle
  }
  return { all, used }
}
