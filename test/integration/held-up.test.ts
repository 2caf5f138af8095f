/** Nothing that a request holds, and nothing that a model does with it, keeps a worker from its other jobs. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const documents = (count: number) => Array.from({ length: count }, (_, i) => `job ${i} ${'words '.repeat(30)}`)

/** Jobs that a worker has taken up, each time. */
async function taken(worker: Awaited<ReturnType<ReturnType<typeof stage>['worker']>>): Promise<number> {
  const { values } = await worker.metrics.stageDuration.get()
  const of = values.find(({ metricName, labels }) => metricName?.endsWith('_count') && labels.stage === 'queued')
  return of?.value ?? 0
}

/** The processes that a worker runs its model in. */
async function inferenceOf(pid: number): Promise<number[]> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return children.split(' ').filter(Boolean).map(Number)
}

it('an urgent request does not wait for a large one that came before', async () => {
  await stage().worker({ maxInflightPairs: 512, scoreCacheTtlMs: 0 })
  const client = stage().client({ maxJobPairs: 50_000 })
  const large = await client.submit({ query: 'job', documents: documents(8000), priority: 400 })
  await until('it runs', async () => (await client.status(large)).state === 'running')
  const { timings_ms } = await client.rerank({ query: 'a job', documents: documents(3) })
  expect(timings_ms.budget_wait).toBeLessThan(timings_ms.total)
  expect((await client.status(large)).state).toBe('running')
  const result = await client.result(large)
  expect(result.results).toHaveLength(8000)
  expect(result.timings_ms.batch_wait).toBeLessThanOrEqual(result.timings_ms.total)
})

it('gives a job in blocks the scores that it has in one piece', async () => {
  const worker = await stage().worker({ scoreCacheTtlMs: 0, maxInflightPairs: 20 })
  const request = { query: 'the job', documents: documents(300).map((text, i) => text.repeat(1 + (i % 7))) }
  const client = stage().client({ maxJobPairs: 1000 })
  for (const strategy of [{}, { long_documents: 'windows' }, { prefilter: { keep: 250 } }] as const) {
    const blocks = await client.rerank({ ...request, strategy })
    const parts = await stage()
      .client({ maxJobPairs: 7 })
      .rerank({ ...request, strategy })
    expect(blocks.results).toEqual(parts.results)
    expect(blocks.usage).toEqual(parts.usage)
  }
  expect(await worker.metrics.registry.metrics()).toContain('rankmill_event_loop_lag_seconds{quantile="0.99"}')
})

it('a job keeps its lock, whatever is in its texts', async () => {
  const worker = await stage().worker({ lockMs: 1000, maxTokens: 64 })
  const hostile = [
    'A b. C d! '.repeat(60_000),
    'no end to this '.repeat(40_000),
    'x'.repeat(600_000),
    '. '.repeat(200_000),
  ]
  for (const long_documents of ['snippet', 'windows', 'truncate'] as const) {
    const { results } = await stage()
      .client()
      .rerank({ query: 'd x end', documents: hostile, strategy: { long_documents } })
    expect(results).toHaveLength(hostile.length)
  }
  const { results } = await stage()
    .client()
    .rerank({ query: 'd x end '.repeat(2000), documents: hostile, strategy: { prefilter: { keep: 1 } } })
  expect(results).toHaveLength(hostile.length)
  expect(await taken(worker)).toBe(4)
})

it('a model call without an end is given up, and the job is done', async () => {
  const worker = workerProcess(stage(), '--call-timeout-ms', '1000', '--score-cache-ttl-ms', '0')
  await ready(worker)
  const [inference] = await inferenceOf(worker.pid!)
  process.kill(inference!, 'SIGSTOP')
  const { results } = await stage()
    .client()
    .rerank({ query: 'job', documents: documents(40) })
  expect(results).toHaveLength(40)
  expect(await inferenceOf(worker.pid!)).not.toContain(inference)
})

it('a worker whose model crashes goes on, and answers the same', async () => {
  const worker = workerProcess(stage(), '--score-cache-ttl-ms', '0')
  await ready(worker)
  const client = stage().client()
  const undisturbed = await client.rerank({ query: 'job', documents: documents(1000) })
  const id = await client.submit({ query: 'job', documents: documents(1000) })
  await until('it runs', async () => (await client.status(id)).state === 'running')
  for (const pid of await inferenceOf(worker.pid!)) process.kill(pid, 'SIGSEGV')
  expect((await client.result(id)).results).toEqual(undisturbed.results)
  expect(worker.exitCode).toBeNull()
})

it('a worker that is told to stop in an endless call stops, and gives the job back', async () => {
  const worker = workerProcess(stage(), '--drain-timeout-ms', '200', '--lock-ms', '600000', '--score-cache-ttl-ms', '0')
  await ready(worker)
  const inference = await inferenceOf(worker.pid!)
  for (const pid of inference) process.kill(pid, 'SIGSTOP')
  const client = stage().client()
  const id = await client.submit({ query: 'job', documents: documents(40) })
  await until('it runs', async () => (await client.status(id)).state === 'running')
  worker.kill('SIGTERM')
  const [code] = await once(worker, 'exit')
  expect(code).toBe(0)
  expect((await client.status(id)).state).toBe('waiting')
  for (const pid of inference) expect(() => process.kill(pid, 0)).toThrow('ESRCH')
})
