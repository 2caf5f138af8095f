/**
 * Disturbs a runner, its workers, their Redis, their disks, their clocks and the way between them at random moments, in every
 * way that there is, while two more producers ask for the same requests; and compares what comes of it with what an undisturbed
 * fleet gives.
 */
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { seededRandom } from '../../shared/random.js'
import { KeptProcess } from './kept-process.js'
import { FORGETFUL, OneRedis, type ServerFault } from './one-redis.js'
import { RunnerUnderTest } from './runner-under-test.js'
import { SentinelRedis } from './sentinel-redis.js'
import { SmallDisk } from './small-disk.js'
import { TwoProducers } from './two-producers.js'

export interface ChaosOptions {
  readonly requests: number
  readonly faults: number
  readonly seed: number
  /** One Redis behind a proxy, or two that sentinels watch. */
  readonly redis: 'one' | 'sentinel'
  /** How many the fleet has. */
  readonly shards?: number
  /** Of the kinds that there are, only these. */
  readonly only?: readonly Fault[]
  /** Answers of the two producers whose scores are compared with undisturbed ones. */
  readonly compared?: number
  /** The batch's model costs nothing; that of the two producers is real. */
  readonly isFake: boolean
  readonly log: (line: string) => void
}

export interface ChaosOutcome {
  readonly faults: Readonly<Partial<Record<Fault, number>>>
  /** How often somebody had to mend what Redis had written, which it would not load any more. */
  readonly repairs: number
  readonly same: boolean
  readonly lines: number
  readonly seconds: number
  /** Requests of the two producers that were answered, and how many of them were compared with undisturbed ones. */
  readonly answered: number
  readonly compared: number
  /** What was wrong with their answers. */
  readonly wrong: readonly string[]
  /** Where outputs that differ were kept. */
  readonly folder: string
}

/** What is done to processes and to what they stand on. */
const OWN_FAULTS = [
  ...(['runner killed', 'worker killed', 'all killed', 'runner asleep', 'worker asleep'] as const),
  ...(['worker upgraded', 'clocks off', 'output disk full'] as const),
] as const
export type Fault = (typeof OWN_FAULTS)[number] | ServerFault

const MAIN = resolve('dist/cli/main.js')
const FAKE_WORKER = resolve('dist/test/chaos/chaos-worker.js')
const CLOCK = pathToFileURL(resolve('dist/test/chaos/skewed-clock.js')).href
/** Of the batch; and two versions of another, which workers are upgraded between. */
const MODEL = resolve('test/fixtures/models/one-logit')
const VERSIONS = [MODEL, resolve('test/fixtures/models/roberta')] as const
const MOST_DOCUMENTS = 8
/** The largest requests are split. */
const MAX_JOB_PAIRS = 6
const WORKERS = 2
/** Of the output's disk, for each request: two copies at a time, and more. */
const BYTES_PER_REQUEST = 6000
/** A worker that is stopped for so long counts as dead. */
const ASLEEP_MS = 8000
const SPARE_MB = 16
const COMPARED = 100
const CLOCKS_MS = [-3_600_000, 0, 3_600_000] as const

export async function chaos(options: ChaosOptions): Promise<ChaosOutcome> {
  const { requests, faults, seed, redis, isFake, shards = 1, only, compared: most = COMPARED, log } = options
  const random = seededRandom(seed)
  const oneOf = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-chaos-'))
  const input = join(folder, 'in.jsonl')
  await writeFile(input, requestLines(requests))
  const disk = await SmallDisk.mount(join(folder, 'output'), SPARE_MB + Math.ceil((requests * BYTES_PER_REQUEST) / 1e6))
  const forgets = () => producers.forgotten()
  const servers = await (redis === 'one' ? OneRedis : SentinelRedis).start(join(folder, 'redis'), log, forgets)
  const { url } = servers
  const env = { ...process.env, RANKMILL_REDIS: url, RANKMILL_LOG_LEVEL: 'silent', RANKMILL_SHARDS: String(shards) }
  const node = (clockMs: number, more: NodeJS.ProcessEnv, ...args: string[]) => {
    const clock = clockMs === 0 ? [] : ['--import', CLOCK]
    const all = { ...env, RANKMILL_TEST_CLOCK_MS: String(clockMs), ...more }
    return spawn(process.execPath, [...clock, ...args], { env: all, stdio: 'ignore' })
  }
  const worker = ({ version, clockMs }: { version: number; clockMs: number }, queue = 'rerank') =>
    node(
      clockMs,
      {
        RANKMILL_MODEL: `m=${isFake ? 'fake' : MODEL},v=${VERSIONS[version % VERSIONS.length]}`,
        ...{ RANKMILL_THREADS: '1', RANKMILL_SESSIONS: '1', RANKMILL_BATCH_PAIRS: '4', RANKMILL_CALIBRATE: 'false' },
        ...{ RANKMILL_METRICS_PORT: '0', RANKMILL_LOCK_MS: '2000', RANKMILL_MAX_STALLED: '100' },
        ...{ RANKMILL_SCORE_CACHE_TTL_MS: '0', RANKMILL_QUEUE: queue },
      },
      ...(isFake ? [FAKE_WORKER] : [MAIN, 'worker']),
    )
  const states = Array.from({ length: WORKERS }, () => ({ version: 0, clockMs: 0 }))
  const workers = states.map((state) => new KeptProcess(() => worker(state)))
  const producers = new TwoProducers(url, 'v', shards)
  let runnerClockMs = 0
  const runner = new RunnerUnderTest(join(disk.folder, 'out.jsonl'), (output) =>
    node(
      runnerClockMs,
      {},
      ...[MAIN, 'batch', 'run', input, '-o', output, '--no-embedded', '--model', 'm'],
      ...['--checkpoint-ms', '100', '--resubmit-ms', '1000', '--lease-ms', '2000'],
      ...['--max-job-pairs', String(MAX_JOB_PAIRS)],
    ),
  )
  const isPossible = (fault: Fault) => fault !== 'output disk full' || disk.canBeFilled
  const kinds = [...OWN_FAULTS.filter(isPossible), ...servers.faults].filter(
    (fault) => (redis === 'one' || fault !== 'all killed') && (only === undefined || only.includes(fault)),
  )

  const counts: Partial<Record<Fault, number>> = {}
  const wakings: Promise<void>[] = []
  const startedAt = performance.now()
  try {
    runner.start()
    producers.start()
    for (const [i, fault] of schedule(kinds, faults, random).entries()) {
      const line = Math.floor(((i + random()) / faults) * requests * 0.98)
      await runner.untilLines(line)
      const chosen = Math.floor(random() * WORKERS)
      const [process, state] = [workers[chosen] as KeptProcess, states[chosen] as (typeof states)[number]]
      counts[fault] = (counts[fault] ?? 0) + 1
      const seconds = Math.round((performance.now() - startedAt) / 1000)
      log(`chaos: ${seconds} s: ${i + 1} of ${faults} at line ${line}: ${fault}`)
      if (FORGETFUL.has(fault)) producers.forgotten()
      switch (fault) {
        case 'runner killed':
          runner.kill()
          break
        case 'worker killed':
          process.kill()
          break
        case 'all killed':
          process.kill()
          await servers.bring('redis killed')
          runner.kill()
          break
        case 'runner asleep':
          await runner.sleepPastLease()
          break
        case 'worker asleep':
          wakings.push(process.sleep(ASLEEP_MS))
          break
        case 'worker upgraded':
          state.version++
          process.child.kill('SIGTERM')
          break
        case 'clocks off':
          state.clockMs = oneOf(CLOCKS_MS)
          runnerClockMs = oneOf(CLOCKS_MS)
          process.kill()
          runner.kill()
          break
        case 'output disk full':
          disk.fill()
          await runner.untilItEnds()
          disk.free()
          break
        default:
          await servers.bring(fault)
      }
      if (FORGETFUL.has(fault)) producers.forgotten()
    }
    await runner.untilLines(requests)
    await Promise.all(wakings)
    runnerClockMs = 0
    await runner.finish()
    await producers.stop()

    const undisturbed = join(disk.folder, 'undisturbed.jsonl')
    await runner.runThrough(undisturbed)
    const [disturbed, expected] = await Promise.all([readFile(runner.output), readFile(undisturbed)])
    const same = disturbed.equals(expected)
    const lines = disturbed.toString().split('\n').length - 1
    let compared = 0
    for (const [version] of VERSIONS.entries()) {
      const queue = `version-${version}`
      const alone = new KeptProcess(() => worker({ version, clockMs: 0 }, queue))
      compared += await producers.compare(queue, most).finally(() => alone.end())
    }
    const { answered, wrong } = producers
    const kept = `${folder}-outputs`
    if (!same) await cp(disk.folder, kept, { recursive: true })
    const seconds = (performance.now() - startedAt) / 1000
    return { faults: counts, repairs: servers.repairs, same, lines, seconds, answered, compared, wrong, folder: kept }
  } catch (error) {
    // What Redis logged and held, and how far the output is.
    await cp(folder, `${folder}-outputs`, { recursive: true }).catch(() => undefined)
    log(`chaos: stopped, see ${folder}-outputs`)
    throw error
  } finally {
    disk.free()
    await producers.stop(true)
    await runner.end()
    await Promise.all(workers.map((each) => each.end()))
    await servers.end()
    await disk.unmount()
    await rm(folder, { recursive: true, force: true })
  }
}

/** As many faults as are wanted, each kind as often as the others, in an order of the seed's. */
function schedule(kinds: readonly Fault[], count: number, random: () => number): Fault[] {
  const order: Fault[] = []
  while (order.length < count) {
    const left: Fault[] = [...kinds]
    while (left.length > 0) order.push(...left.splice(Math.floor(random() * left.length), 1))
  }
  return order.slice(0, count)
}

function requestLines(count: number): string {
  const lines: string[] = []
  for (let i = 0; i < count; i++) {
    const documents = Array.from(
      { length: 1 + ((i * 7) % MOST_DOCUMENTS) },
      (_, k) => `passage ${k} of request ${i}, about ${(i * 5 + k) % 17}`,
    )
    lines.push(JSON.stringify({ custom_id: `request-${i}`, body: { query: `query ${i}`, documents } }))
  }
  return `${lines.join('\n')}\n`
}
