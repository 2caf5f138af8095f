/** `rankmill failed` over many dead jobs with large documents: a page, or one of them, whatever there is beside. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { jobIdOf, keysOf } from '../../shared/protocol/keys.js'
import { PoolQueues } from '../../shared/redis/pool-queues.js'
import { errorEnd, RequestLife } from '../../shared/redis/request-life.js'
import { runCommand } from './command.js'
import { type Stage, useStage } from './stage.js'

const stage = useStage()
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-failed-'))
})
afterEach(() => rm(folder, { recursive: true }))

const MEGABYTE = 1 << 20
/** Less than the documents of all jobs together. */
const SMALL_HEAP = '--max-old-space-size=64'

/** A failed job, as BullMQ keeps it. */
async function failedJob(s: Stage, queues: PoolQueues, requestId: string, at: number, more: Partial<RerankJob> = {}) {
  const documents = [{ text: 'x'.repeat(MEGABYTE) }]
  const lane = at % 2 === 0 ? 'interactive' : 'bulk'
  const data = {
    v: 2,
    requestId,
    generation: 1,
    part: 0,
    parts: 1,
    query: 'q',
    documents,
    ...more,
  } as unknown as RerankJob
  const queue = queues.of('m', lane)
  const id = jobIdOf(requestId, 1, data.part)
  const keys = keysOf(s.prefix, 'rerank')
  const note = {
    generation: 1,
    pool: 'm',
    lane,
    parts: data.parts,
    pairs: 1,
    waitingJobs: 0,
    waitingBytes: 0,
    resultTtlMs: 60_000,
    submittedAt: at,
    deadlineAt: '',
  }
  await s.redis.hset(keys.request(requestId), note)
  await s.redis.hset(keys.pools, 'm', at)
  await s.redis.set(keys.result(requestId), '{"error":{"code":"internal","message":"gone wrong"},"generation":1}')
  await queue.add('rerank', data, { jobId: id })
  await s.redis
    .multi()
    .lrem(queue.toKey('wait'), 1, id)
    .hset(queue.toKey(id), { failedReason: 'gone wrong', finishedOn: at, attemptsMade: 1 })
    .zadd(queue.toKey('failed'), at, id)
    .exec()
}

it('pages, finds one by its id, retries and removes in little memory', async () => {
  const s = stage()
  const queues = new PoolQueues(s.redis, keysOf(s.prefix, 'rerank'))
  s.onEnd(() => queues.close())
  const count = 100
  for (let i = 0; i < count; i++) await failedJob(s, queues, `dead ${i}`, 1_000_000 + i)
  // Of a request of three parts whose first is done.
  for (const part of [1, 2])
    await failedJob(s, queues, 'split', 2_000_000, { part, parts: 3, documents: ['small'] as never })

  const failed = (...args: string[]) =>
    runCommand(['failed', ...args], folder, {
      RANKMILL_REDIS: s.options().redis,
      RANKMILL_PREFIX: s.prefix,
      NODE_OPTIONS: SMALL_HEAP,
    })
  const idsOf = (out: string) =>
    out
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { id: string }).id)

  const first = await failed('ls', '--limit', '5')
  expect(idsOf(first.stdout)).toEqual(['split', 'split', 'dead 99', 'dead 98', 'dead 97'])
  expect(first.stderr).toContain('1 to 5 of 102 failed jobs; the next: --offset 5')
  const last = await failed('ls', '--limit', '60', '--offset', '42')
  expect(idsOf(last.stdout)).toEqual(Array.from({ length: 60 }, (_, i) => `dead ${59 - i}`))
  expect(last.stderr).toBe('')

  const shown = await failed('show', 'dead 7')
  expect(JSON.parse(shown.stdout)).toMatchObject({ id: 'dead 7', error: 'gone wrong', data: { query: 'q' } })
  const parts = await failed('show', 'split')
  expect(parts.stdout.match(/"part": "\d\/3"/g)).toEqual(['"part": "2/3"', '"part": "3/3"'])
  const none = await failed('rm', 'dead 8', 'dead')
  expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining('no failed job of request "dead"') })

  expect((await failed('retry', 'dead 7')).stderr).toContain('1 job(s) back in the queue')
  expect((await failed('rm', 'dead 8', 'split')).stderr).toContain('3 job(s) removed')
  expect((await failed('rm', 'all')).stderr).toContain('98 job(s) removed')
  expect(await failed('ls')).toMatchObject({ code: 0, stdout: '', stderr: expect.stringContaining('no failed jobs') })
  expect(await queues.of('m', 'bulk').getWaitingCount()).toBe(1)
})

it('tries again all that can be, whatever became of the others, and what a try that was killed left', async () => {
  const s = stage()
  const keys = keysOf(s.prefix, 'rerank')
  const queues = new PoolQueues(s.redis, keys)
  s.onEnd(() => queues.close())
  const small = { documents: ['small'] as never }
  for (const [i, id] of ['first', 'expired', 'killed'].entries()) await failedJob(s, queues, id, 2 * i, small)
  await s.redis.del(keys.request('expired'))
  // Opened again by a process that was killed before it had queued a job; then found by who looks after lost requests.
  const life = new RequestLife(s.redis, keys)
  const opened = await life.retry('killed', 1, 60_000)
  const generation = opened?.generation ?? 0
  const { outcome } = await life.answer(
    { id: 'killed', generation, shared: '' },
    errorEnd(new RankmillError('request_lost', 'lost').toBody(), generation),
  )
  expect(outcome).toBe('written')

  const env = { RANKMILL_REDIS: s.options().redis, RANKMILL_PREFIX: s.prefix }
  const { code, stderr } = await runCommand(['failed', 'retry', 'all'], folder, env)
  expect([code, stderr]).toEqual([1, expect.stringContaining('2 job(s) back in the queue')])
  expect(stderr).toContain('request "expired" is not kept any more')
  expect(await queues.of('m', 'interactive').getWaitingCount()).toBe(2)
  expect(await queues.of('m', 'interactive').getFailedCount()).toBe(1)
})
