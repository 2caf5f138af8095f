/**
 * What it costs that inference runs in processes of its own: the same calls in this process, and through a session's process,
 * by turns. Processor time of both sides, which other work on the machine does not change much.
 *
 *   npm run bench:processes [-- rounds]
 */
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { syntheticBatch } from '../worker/inference/calibration.js'
import type { Batch } from '../worker/inference/engine.js'
import { ScoringSession } from '../worker/inference/session.js'
import { SessionProcess } from '../worker/inference/session-process.js'
import { openModel } from '../worker/model/model.js'
import { median, printConditions } from './conditions.js'

const CALLS = 10
/** Linux counts processor time in these. */
const TICK_MS = 10
const SHAPES = [
  [1, 64],
  [16, 64],
  [32, 128],
] as const

/** Of this process and another, in ms. */
function spentMs(pid: number): number {
  const { user, system } = process.cpuUsage()
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (user + system) / 1000 + (Number(fields[11]) + Number(fields[12])) * TICK_MS
}

const rounds = Number(process.argv[2] ?? 7)
printConditions('inference in this process and in one of its own, one thread', { rounds })
for (const name of ['rankmill-nano', 'rankmill-small']) {
  const cacheDir = join(tmpdir(), 'rankmill-processes')
  const model = await openModel(name, { dtype: 'int8', device: 'cpu', cacheDir, allowHub: false })
  const data = { model, device: 'cpu', threads: 1 } as const
  const own = await ScoringSession.open(data)
  const other = await SessionProcess.start({ ...data, callTimeoutMs: 600_000 }, { info: () => {}, warn: () => {} })
  for (const [size, length] of SHAPES) {
    const batch: Batch = { ...syntheticBatch(size, length), tokenTypeIds: new BigInt64Array(size * length) }
    const calls = Math.ceil((CALLS * 32) / size)
    const [here, there]: [number[], number[]] = [[], []]
    for (let round = 0; round < rounds; round++) {
      for (const [list, run] of [
        [here, (): Promise<unknown> => own.run(batch)],
        [there, (): Promise<unknown> => other.run(batch)],
      ] as const) {
        const before = spentMs(other.pid)
        for (let call = 0; call < calls; call++) await run()
        list.push(((spentMs(other.pid) - before) * 1000) / (calls * size))
      }
    }
    const [a, b] = [median(here), median(there)]
    console.log(
      `${name.padEnd(15)} ${size} x ${length}: ${a.toFixed(0)} us a pair here, ${b.toFixed(0)} us in a process: ${(((b - a) / a) * 100).toFixed(1)} % more`,
    )
  }
  await own.release()
  await other.close()
}
