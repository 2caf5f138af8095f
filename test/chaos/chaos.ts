/**
 * Disturbs a runner, its workers, their Redis and the way to it at random moments, in every way that there is, while two more
 * producers ask for the same requests; and compares what comes of it with what an undisturbed fleet gives.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { findLaunch } from '../../cli/embedded/redis-launch.js'
import { seededRandom } from '../../shared/random.js'
import { FaultyProxy } from '../integration/faulty-proxy.js'
import { KeptProcess } from './kept-process.js'
import { REDIS_FAULTS, type RedisFaultKind, RedisFaults } from './redis-faults.js'
import { TwoProducers } from './two-producers.js'

export interface ChaosOptions {
  readonly requests: number
  readonly faults: number
  readonly seed: number
  readonly log: (line: string) => void
}

export interface ChaosOutcome {
  readonly faults: Readonly<Partial<Record<Fault, number>>>
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

/** What is done, in turn and in an order that the seed says. */
const FAULTS = [
  ...(['runner killed', 'worker killed', 'redis killed', 'all killed', 'runner asleep'] as const),
  ...(['worker asleep', 'worker upgraded'] as const),
  ...REDIS_FAULTS,
] as const
type Fault = (typeof FAULTS)[number]

const MAIN = resolve('dist/cli/main.js')
/** Of the batch; and two versions of another, which workers are upgraded between. */
const MODEL = resolve('test/fixtures/models/one-logit')
const VERSIONS = [MODEL, resolve('test/fixtures/models/roberta')] as const
const DOCUMENTS = 8
const WORKERS = 2
const LOOK_MS = 20
const PATIENCE_MS = 120_000
const LEASE_MS = 2000
/** A worker that is stopped for so long counts as dead. */
const ASLEEP_MS = 8000
/** What a runner ends with that has lost its output to another. */
const LOST = 2

export async function chaos({ requests, faults, seed, log }: ChaosOptions): Promise<ChaosOutcome> {
  const random = seededRandom(seed)
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-chaos-'))
  const input = join(folder, 'in.jsonl')
  await writeFile(input, requestLines(requests))
  const dataDir = join(folder, 'redis')
  await mkdir(dataDir)
  const launch = await findLaunch({ dataDir, env: { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }, log })
  const port = await freePort()
  const proxy = await FaultyProxy.start(port)
  const url = `redis://127.0.0.1:${proxy.port}`
  const env = { ...process.env, RANKMILL_REDIS: url, RANKMILL_LOG_LEVEL: 'silent' }
  const node = (...args: string[]) => spawn(process.execPath, [MAIN, ...args], { env, stdio: 'ignore' })

  const args = [...launch.args, '--port', String(port), '--bind', '127.0.0.1']
  const redis = new KeptProcess(() =>
    spawn(launch.command, args, { env: { ...process.env, ...launch.env }, stdio: 'ignore' }),
  )
  const quick = ['--threads', '1', '--sessions', '1', '--batch-pairs', '4', '--no-calibrate']
  const own = ['--metrics-port', '0', '--lock-ms', '2000', '--max-stalled', '100', '--score-cache-ttl-ms', '0']
  const serving = (version: number) => ['--model', `m=${MODEL},v=${VERSIONS[version % VERSIONS.length]}`]
  const versions = Array.from({ length: WORKERS }, () => 0)
  const workers = versions.map(
    (_, i) => new KeptProcess(() => node('worker', ...serving(versions[i] ?? 0), ...quick, ...own)),
  )
  const redisFaults = new RedisFaults(port, proxy)
  const producers = new TwoProducers(url, 'v')
  const often = ['--checkpoint-ms', '100', '--resubmit-ms', '1000', '--lease-ms', String(LEASE_MS)]
  const run = (output: string) => node('batch', 'run', input, '-o', output, '--no-embedded', '--model', 'm', ...often)

  const counts: Partial<Record<Fault, number>> = {}
  const wakings: Promise<void>[] = []
  const startedAt = performance.now()
  try {
    const output = join(folder, 'out.jsonl')
    const runner = new KeptProcess(() => run(output))
    producers.start()
    const order = schedule(faults, random)
    for (const [i, fault] of order.entries()) {
      const line = Math.floor(((i + random()) / faults) * requests * 0.98)
      await untilLines(output, line)
      const chosen = Math.floor(random() * WORKERS)
      const worker = workers[chosen]
      counts[fault] = (counts[fault] ?? 0) + 1
      log(`chaos: ${i + 1} of ${faults} at line ${line}: ${fault}`)
      if (fault === 'worker killed' || fault === 'all killed') worker?.kill()
      if (fault === 'redis killed' || fault === 'all killed') redis.kill()
      if (fault === 'runner killed' || fault === 'all killed') runner.kill()
      if (fault === 'runner asleep') await sleepPastLease(output, () => runner.putToSleep())
      if (fault === 'worker asleep' && worker) wakings.push(sleep(worker.child))
      if (fault === 'worker upgraded') {
        versions[chosen] = (versions[chosen] ?? 0) + 1
        worker?.child.kill('SIGTERM')
      }
      if (isRedisFault(fault)) await redisFaults.bring(fault)
    }
    await untilLines(output, requests)
    await Promise.all(wakings)
    await runner.end()
    await finish(() => run(output))
    await producers.stop()

    const undisturbed = join(folder, 'undisturbed.jsonl')
    await finish(() => run(undisturbed))
    const [disturbed, expected] = await Promise.all([readFile(output), readFile(undisturbed)])
    const same = disturbed.equals(expected)
    const lines = disturbed.toString().split('\n').length - 1
    let compared = 0
    for (const [version] of VERSIONS.entries()) {
      const queue = `version-${version}`
      const alone = new KeptProcess(() => node('worker', ...serving(version), ...quick, ...own, '--queue', queue))
      compared += await producers.compare(queue).finally(() => alone.end())
    }
    const { answered, wrong } = producers
    return {
      faults: counts,
      same,
      lines,
      seconds: (performance.now() - startedAt) / 1000,
      answered,
      compared,
      wrong,
      folder,
    }
  } finally {
    await producers.stop()
    redisFaults.close()
    await Promise.all(workers.map((worker) => worker.end()))
    await redis.end()
    await proxy.close()
    const output = join(folder, 'out.jsonl')
    const isKept = existsSync(output) && !(await sameFiles(output, join(folder, 'undisturbed.jsonl')))
    if (!isKept) await rm(folder, { recursive: true, force: true })
  }
}

/** As many faults as are wanted, each kind as often as the others, in an order of the seed's. */
function schedule(count: number, random: () => number): Fault[] {
  const order: Fault[] = []
  while (order.length < count) {
    const left: Fault[] = [...FAULTS]
    while (left.length > 0) order.push(...left.splice(Math.floor(random() * left.length), 1))
  }
  return order.slice(0, count)
}

function isRedisFault(fault: Fault): fault is RedisFaultKind {
  return (REDIS_FAULTS as readonly string[]).includes(fault)
}

/** Stops a worker until others count it as dead. */
async function sleep(worker: ChildProcess): Promise<void> {
  worker.kill('SIGSTOP')
  await delay(ASLEEP_MS)
  worker.kill('SIGCONT')
}

function requestLines(count: number): string {
  const lines: string[] = []
  for (let i = 0; i < count; i++) {
    const documents = Array.from(
      { length: DOCUMENTS },
      (_, k) => `passage ${k} of request ${i}, about ${(i * 5 + k) % 17}`,
    )
    lines.push(JSON.stringify({ custom_id: `request-${i}`, body: { query: `query ${i}`, documents } }))
  }
  return `${lines.join('\n')}\n`
}

async function untilLines(output: string, least: number): Promise<void> {
  let best = -1
  let movedAt = performance.now()
  for (;;) {
    const lines = existsSync(output) ? (await readFile(output, 'latin1')).split('\n').length - 1 : 0
    if (lines >= least) return
    if (lines > best) movedAt = performance.now()
    best = Math.max(best, lines)
    if (performance.now() - movedAt > PATIENCE_MS)
      throw new Error(`no progress beyond line ${best} for ${PATIENCE_MS / 1000} s`)
    await delay(LOOK_MS)
  }
}

/** Wakes a runner when another has taken its output over; it has to notice. */
async function sleepPastLease(output: string, putToSleep: () => ChildProcess): Promise<void> {
  const before = await newestClaim(output)
  const sleeper = putToSleep()
  const ended = once(sleeper, 'exit')
  const deadline = performance.now() + PATIENCE_MS
  while ((await newestClaim(output)) <= before) {
    if (performance.now() > deadline) throw new Error(`nobody took over from a sleeper in ${PATIENCE_MS / 1000} s`)
    await delay(LOOK_MS)
  }
  sleeper.kill('SIGCONT')
  const [code] = await ended
  if (code !== LOST) throw new Error(`a runner that slept past its lease ended with ${code}`)
}

/** Number of the last runner that has written a checkpoint. */
async function newestClaim(output: string): Promise<number> {
  const names = await readdir(`${output}.rankmill`).catch(() => [])
  return Math.max(0, ...names.map((name) => Number(/^checkpoint\.(\d+)$/.exec(name)?.[1] ?? 0)))
}

/** Runs until it says that it is done. */
async function finish(start: () => ChildProcess): Promise<void> {
  const child = start()
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`the run ended with ${code}`)
}

async function sameFiles(a: string, b: string): Promise<boolean> {
  if (!existsSync(a) || !existsSync(b)) return false
  return (await readFile(a)).equals(await readFile(b))
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address ? address.port : 0
}
