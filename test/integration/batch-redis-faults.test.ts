/** A file of requests through a Redis that fails on the way: what passes is waited for, and no line is spent on it. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openBatch } from '../../producer/batch/batch-file.js'
import type { BatchRun } from '../../producer/batch/batch-run.js'
import { infoField } from '../../shared/redis/connection.js'
import { freePort, type OwnRedis, useOwnRedis } from './own-redis.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
let folder: string
let input: string
let output: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-batch-faults-'))
  input = join(folder, 'in.jsonl')
  output = join(folder, 'out.jsonl')
  const line = (i: number) =>
    JSON.stringify({
      custom_id: `request-${i}`,
      body: { query: `query ${i}`, documents: Array.from({ length: 5 }, (_, k) => `passage ${k} of request ${i}`) },
    })
  await writeFile(input, `${Array.from({ length: LINES }, (_, i) => line(i)).join('\n')}\n`)
})
afterEach(() => rm(folder, { recursive: true }))

const LINES = 150

interface Fault {
  readonly name: string
  readonly begin: (redis: OwnRedis) => Promise<unknown>
  readonly end: (redis: OwnRedis) => Promise<unknown>
  /** What the run says meanwhile. */
  readonly says: RegExp
}

const FAULTS: readonly Fault[] = [
  {
    name: 'full',
    begin: ({ admin }) => admin.config('SET', 'maxmemory', 1),
    end: ({ admin }) => admin.config('SET', 'maxmemory', 0),
    says: /OOM/,
  },
  {
    name: 'read-only, as after a failover',
    begin: async ({ admin }) => admin.replicaof('127.0.0.1', await freePort()),
    end: ({ admin }) => admin.call('REPLICAOF', 'NO', 'ONE'),
    says: /READONLY|connection/,
  },
  {
    name: 'out of disk',
    begin: async ({ admin }) => {
      await admin.config('SET', 'save', '3600 1')
      await rm(join(folder, 'redis'), { recursive: true })
      await admin.bgsave()
      await until('saving has failed', async () => {
        return infoField(await admin.info('persistence'), 'rdb_last_bgsave_status') === 'err'
      })
    },
    end: ({ admin }) => admin.config('SET', 'save', ''),
    says: /MISCONF/,
  },
]

interface OutputLine {
  custom_id: string
  response: unknown
  error: unknown
}

async function answers(): Promise<Map<string, string>> {
  const lines = (await readFile(output, 'utf8')).trimEnd().split('\n')
  const parsed = lines.map((line) => JSON.parse(line) as OutputLine)
  expect(parsed.filter(({ error }) => error !== null)).toEqual([])
  expect(parsed).toHaveLength(LINES)
  return new Map(parsed.map(({ custom_id }, i) => [custom_id, lines[i] ?? '']))
}

async function undisturbed(url: string): Promise<Map<string, string>> {
  const run = await openBatch({ input, output, overwrite: true })
  await run.run(stage().client({ redis: url, queue: 'undisturbed' }))
  return answers()
}

const isWaiting = (run: BatchRun, says: RegExp) =>
  until('the run says what it waits for', () => says.test(run.progress().waitingFor ?? ''))

describe.each(FAULTS)('a batch on a Redis that is $name', ({ begin, end, says }) => {
  it('waits until it can submit, and answers every line', async () => {
    const redis = await redisInFolder()
    const client = stage().client({ redis: redis.url, commandTimeoutMs: 1000 })
    await client.workers()
    await begin(redis)
    const run = await openBatch({ input, output })
    const running = run.run(client)
    await isWaiting(run, says)
    await end(redis)
    await stage().worker({ redis: redis.url })
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    await answers()
  })

  it('in the middle goes on as if nothing had been', async () => {
    const redis = await redisInFolder()
    await stage().worker({ redis: redis.url, queue: 'undisturbed' })
    const expected = await undisturbed(redis.url)
    // Jobs that the worker can neither end nor give back return when their lock runs out.
    await stage().worker({ redis: redis.url, scoreCacheTtlMs: 0, lockMs: 2000 })
    const run = await openBatch({ input, output, overwrite: true, options: { resubmitMs: 1000 } })
    // Tries that workers spend on the fault are theirs: here it is about those of the run.
    const running = run.run(stage().client({ redis: redis.url, commandTimeoutMs: 1000, attempts: 20 }))
    await until('some lines are written', () => run.progress().requests > 10)
    await begin(redis)
    await isWaiting(run, says)
    await end(redis)
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    expect(await answers()).toEqual(expected)
  })
})

async function redisInFolder(): Promise<OwnRedis> {
  await mkdir(join(folder, 'redis'))
  return ownRedis(['--dir', join(folder, 'redis')])
}

it('a batch whose Redis refuses it ends with the reason and no line spent, and goes on once that is corrected', async () => {
  const redis = await redisInFolder()
  await redis.admin.acl('SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all')
  const url = redis.url.replace('//', '//app:secret@')
  await stage().worker({ redis: redis.url })
  const first = await openBatch({ input, output })
  const running = first.run(stage().client({ redis: url })).catch((error: unknown) => error)
  await until('some lines are written', () => first.progress().requests > 10)
  await redis.admin.acl('SETUSER', 'app', '-@scripting')
  expect(await running).toMatchObject({ code: 'redis_denied' })
  expect(first.report().totals).toMatchObject({ failed: 0 })
  await redis.admin.acl('SETUSER', 'app', '+@all')
  const again = await openBatch({ input, output })
  expect(await again.run(stage().client({ redis: url }))).toMatchObject({
    status: 'finished',
    totals: { requests: LINES, failed: 0 },
  })
  await answers()
})
