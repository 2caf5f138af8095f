/** Workers that score differently under one name: a split request is wholly of one of them, and ends, whatever their clocks say. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'bullmq'
import { describe, expect, it } from 'vitest'
import { jobIdOf } from '../../shared/protocol/keys.js'
import { queueName } from '../../shared/protocol/lanes.js'
import type { WorkerInfo } from '../../shared/protocol/worker-info.js'
import type { RequestNote } from '../../shared/redis/request-life.js'
import { WorkerRegistry } from '../../shared/redis/worker-registry.js'
import { documents, lifeOf, pacedWorker } from './request-stage.js'
import { until, useStage } from './stage.js'
import { ready } from './worker-process.js'

const stage = useStage()
const MAIN = resolve('dist/cli/main.js')
const CLOCK = pathToFileURL(resolve('dist/test/chaos/skewed-clock.js')).href
const ONE = 'test/fixtures/models/one-logit'
const TWO = 'test/fixtures/models/roberta'
const HOUR_MS = 3_600_000
const request = { id: 'r', model: 'm', query: 'q', priority: 400, documents: documents('r', 12) }

/** A worker of the other version, whose clock is off. */
async function otherWorker(clockMs: number): Promise<void> {
  const { redis, prefix } = stage().options()
  const flags = ['--model', `m=${TWO}`, '--threads', '1', '--sessions', '1', '--batch-pairs', '4', '--no-calibrate']
  const child: ChildProcess = fork(MAIN, ['worker', ...flags, '--metrics-port', '0', '--log-level', 'error'], {
    execArgv: ['--import', CLOCK],
    env: {
      ...process.env,
      ...{ RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix, RANKMILL_TEST_CLOCK_MS: String(clockMs) },
    },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  stage().onEnd(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  await ready(child)
}

/** How often workers took each part of a request up. */
async function tries({ generation, pool, lane, parts }: RequestNote): Promise<number[]> {
  const name = `${stage().prefix}:${queueName('rerank', pool, lane)}`
  const jobs = Array.from({ length: parts }, (_, part) => jobIdOf('r', generation, part))
  return (await Promise.all(jobs.map((job) => stage().redis.hget(`${name}:${job}`, 'ats')))).map(Number)
}

/** A request of three parts, of which a worker has the first in hand. */
async function begun() {
  const { life } = lifeOf(stage())
  const { pace } = await pacedWorker(stage(), { model: `m=${ONE}`, batchPairs: 4, concurrency: 1 })
  const client = stage().client({ maxJobPairs: 4 })
  await client.submit(request)
  await until('a part is in hand', () => pace.handed > 0)
  const note = await life.read('r')
  return { client, pace, life, note: note! }
}

describe('a split request that another version comes to as well', () => {
  it('stays with those who began it while they are at work, however long that takes', async () => {
    const { client, pace, life, note } = await begun()
    // What they do meanwhile is none of it.
    await client.submit({ ...request, id: 'urgent', priority: 0, documents: ['a'] })
    pace.step()
    await until('they have taken the urgent one', () => pace.handed === 2)
    await otherWorker(0)
    await until(
      'the other version has passed the other parts on again and again',
      async () => (await tries(note)).filter((count) => count > 45).length === 2,
      60_000,
    )
    expect((await life.read('r'))?.space).toBe(note.space)
    pace.release()
    await client.result('r')
    // Each part was scored once, by the version that began.
    expect(pace.run).toBe(4)
  })

  it.each([
    ['ahead', HOUR_MS],
    ['behind', -HOUR_MS],
  ])('ends, though the other’s clock is an hour %s', async (_, clockMs) => {
    const { client, pace, note } = await begun()
    await otherWorker(clockMs)
    await until('it has tried the others', async () => (await tries(note)).filter((count) => count > 2).length === 2)
    pace.release()
    expect((await client.result('r')).results).toHaveLength(12)
  })

  it('is scored once, beside others of either version, where both are slow', async () => {
    const start = (folder: string) => pacedWorker(stage(), { model: `m=${folder}`, batchPairs: 1, concurrency: 4 })
    const both = [await start(ONE), await start(TWO)]
    const client = stage().client({ maxJobPairs: 1 })
    // Longer than any is passed on before its owners count as gone.
    const beating = setInterval(() => both.forEach(({ pace }) => void pace.step()), 80)
    stage().onEnd(() => clearInterval(beating))
    const all = Array.from({ length: 6 }, (_, i) => ({ ...request, id: `r${i}`, documents: documents(`r${i}`, 40) }))
    const results = await Promise.all(all.map((each) => client.rerank(each)))
    expect(new Set(results.map(({ fingerprint }) => fingerprint)).size).toBe(2)
    expect(both.reduce((sum, { pace }) => sum + pace.run, 0)).toBe(6 * 40)
  })

  it('goes on in the other one, where nobody who scores as it began ever comes to it', async () => {
    const registry = new WorkerRegistry(stage().redis, lifeOf(stage()).keys)
    const { life } = lifeOf(stage())
    const info: WorkerInfo = {
      ...{ id: 'idle', host: 'h', pid: 1, models: ['m'], filters: [], loaded: [], spaces: ['idle'], pools: [] },
      ...{ lockers: [], metricsUrl: '', startedAt: 0, draining: false, jobsPerSecond: 0, appetite: 1 },
    }
    const beat = () => registry.heartbeat(info, { model: 'm', follows: false, shards: 1 })
    await beat()
    const beating = setInterval(() => void beat(), 500)
    stage().onEnd(() => clearInterval(beating))
    const client = stage().client({ maxJobPairs: 4 })
    await client.submit(request)
    const note = (await life.read('r'))!
    const held = { requestId: 'r', generation: note.generation, part: 0, queue: 'q', jobId: 'j', token: 't' }
    await life.take('idle', held, 'idle')
    await life.giveBack('idle', held)
    await otherWorker(0)
    expect((await client.result('r')).results).toHaveLength(12)
  })
})

it('a job of a newer release comes to a worker of it, though one of an older release is an hour ahead', async () => {
  const { life } = lifeOf(stage())
  const client = stage().client()
  await client.submit({ ...request, documents: ['a'] })
  const { generation, pool, lane } = (await life.read('r'))!
  const name = queueName('rerank', pool, lane)
  const key = `${stage().prefix}:${name}:${jobIdOf('r', generation, 0)}`
  const job = JSON.parse((await stage().redis.hget(key, 'data')) ?? '{}') as object
  await stage().redis.hset(key, 'data', JSON.stringify({ ...job, v: 99 }))
  await otherWorker(HOUR_MS)
  await until('the older one has taken it', async () => Number(await stage().redis.hget(key, 'ats')) > 1)
  let got = 0
  const connection = stage().redis.duplicate({ maxRetriesPerRequest: null })
  const newer = new Worker(name, async () => void got++, { connection, prefix: stage().prefix, skipVersionCheck: true })
  stage().onEnd(async () => {
    await newer.close(true)
    connection.disconnect()
  })
  await until('the newer one has', () => got === 1)
})
