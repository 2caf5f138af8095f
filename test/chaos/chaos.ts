/**
 * Kills a runner, its workers and their Redis at random moments, puts runners to sleep past their lease, and compares the
 * output with an undisturbed run's.
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

export interface ChaosOptions {
  readonly requests: number
  readonly kills: number
  readonly seed: number
  readonly log: (line: string) => void
}

export interface ChaosOutcome {
  readonly kills: Readonly<Record<Victim, number>>
  readonly same: boolean
  readonly lines: number
  readonly seconds: number
  /** Where outputs that differ were kept. */
  readonly folder: string
}

type Victim = 'runner' | 'worker' | 'redis' | 'all' | 'sleeper'

const MAIN = resolve('dist/cli/main.js')
const MODEL = resolve('test/fixtures/models/one-logit')
const DOCUMENTS = 8
const WORKERS = 2
const LOOK_MS = 20
const PATIENCE_MS = 120_000
const LEASE_MS = 2000
/** So many disturbances apart, a runner sleeps instead of dying. */
const SLEEP_EVERY = 6
/** What a runner ends with that has lost its output to another. */
const LOST = 2

/** A process that is started again whenever it ends, until it is let go. */
class Kept {
  readonly #start: () => ChildProcess
  #child: ChildProcess
  #kept = true

  constructor(start: () => ChildProcess) {
    this.#start = start
    this.#child = this.#watch(start())
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }

  /** Stops the process where it stands, and starts another beside it. */
  putToSleep(): ChildProcess {
    const sleeper = this.#child
    sleeper.removeAllListeners('exit')
    sleeper.kill('SIGSTOP')
    this.#child = this.#watch(this.#start())
    return sleeper
  }

  async end(): Promise<void> {
    this.#kept = false
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    this.kill()
    await gone
  }

  #watch(child: ChildProcess): ChildProcess {
    child.once('exit', () => {
      if (this.#kept) this.#child = this.#watch(this.#start())
    })
    return child
  }
}

export async function chaos({ requests, kills, seed, log }: ChaosOptions): Promise<ChaosOutcome> {
  const random = seededRandom(seed)
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-chaos-'))
  const input = join(folder, 'in.jsonl')
  await writeFile(input, requestLines(requests))
  const dataDir = join(folder, 'redis')
  await mkdir(dataDir)
  const launch = await findLaunch({ dataDir, env: { ...process.env, RANKMILL_EMBEDDED_REDIS: 'server,package' }, log })
  const port = await freePort()
  const env = { ...process.env, RANKMILL_REDIS: `redis://127.0.0.1:${port}`, RANKMILL_LOG_LEVEL: 'silent' }
  const node = (...args: string[]) => spawn(process.execPath, [MAIN, ...args], { env, stdio: 'ignore' })

  const args = launch.args.map((arg) => arg.replace('{port}', String(port)))
  const redis = new Kept(() => spawn(launch.command, args, { env: { ...process.env, ...launch.env }, stdio: 'ignore' }))
  const quick = ['--model', MODEL, '--threads', '1', '--sessions', '1', '--batch-pairs', '4', '--no-calibrate']
  const own = ['--metrics-port', '0', '--lock-ms', '2000', '--max-stalled', '100', '--score-cache-ttl-ms', '0']
  const workers = Array.from({ length: WORKERS }, () => new Kept(() => node('worker', ...quick, ...own)))
  const often = ['--checkpoint-ms', '100', '--resubmit-ms', '1000', '--lease-ms', String(LEASE_MS)]
  const run = (output: string) => node('batch', 'run', input, '-o', output, '--no-embedded', ...often)

  const counts = { runner: 0, worker: 0, redis: 0, all: 0, sleeper: 0 }
  const startedAt = performance.now()
  try {
    const output = join(folder, 'out.jsonl')
    const runner = new Kept(() => run(output))
    for (let i = 1; i <= kills; i++) {
      const line = Math.floor(((i - 1 + random()) / kills) * requests * 0.98)
      await untilLines(output, line)
      const killed =
        (['runner', 'runner', 'worker', 'worker', 'redis', 'redis', 'all'] as const)[Math.floor(random() * 7)] ?? 'all'
      const victim: Victim = i % SLEEP_EVERY === SLEEP_EVERY / 2 ? 'sleeper' : killed
      counts[victim]++
      log(`chaos: kill ${i} of ${kills} at line ${line}: ${victim}`)
      if (victim === 'worker' || victim === 'all') workers[Math.floor(random() * WORKERS)]?.kill()
      if (victim === 'redis' || victim === 'all') redis.kill()
      if (victim === 'runner' || victim === 'all') runner.kill()
      if (victim === 'sleeper') await sleepPastLease(output, () => runner.putToSleep())
    }
    await untilLines(output, requests)
    await runner.end()
    await finish(() => run(output))

    const undisturbed = join(folder, 'undisturbed.jsonl')
    await finish(() => run(undisturbed))
    const [disturbed, expected] = await Promise.all([readFile(output), readFile(undisturbed)])
    const same = disturbed.equals(expected)
    const lines = disturbed.toString().split('\n').length - 1
    return { kills: counts, same, lines, seconds: (performance.now() - startedAt) / 1000, folder }
  } finally {
    await Promise.all(workers.map((worker) => worker.end()))
    await redis.end()
    const output = join(folder, 'out.jsonl')
    const isKept = existsSync(output) && !(await sameFiles(output, join(folder, 'undisturbed.jsonl')))
    if (!isKept) await rm(folder, { recursive: true, force: true })
  }
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
