/** Kills and restarts, done for real: nothing is lost, nothing is answered twice. */
import { once } from 'node:events'
import { expect, it } from 'vitest'
import { until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()

const longRequest = (name: string, count: number) => ({
  id: name,
  query: name,
  documents: Array.from({ length: count }, (_, i) => `${name} ${i} ${'words '.repeat(60)}`),
})

it('a job whose worker was killed is done by another', async () => {
  const flags = ['--lock-ms', '1000', '--score-cache-ttl-ms', '0']
  const first = workerProcess(stage(), ...flags)
  await ready(first)
  const client = stage().client({ maxJobPairs: 5000 })
  const id = await client.submit(longRequest('killed', 4000))
  await until('it runs', async () => (await client.status(id)).state === 'running')
  first.kill('SIGKILL')
  await once(first, 'exit')
  await ready(workerProcess(stage(), ...flags))
  const result = await client.result(id)
  expect(result.results).toHaveLength(4000)
})

it('a worker that is told to stop finishes what it holds, takes nothing new and leaves', async () => {
  const worker = workerProcess(stage(), '--score-cache-ttl-ms', '0', '--concurrency', '1')
  await ready(worker)
  const client = stage().client()
  const ids = await Promise.all(['a', 'b', 'c', 'd'].map((name) => client.submit(longRequest(name, 200))))
  await until('one runs', async () =>
    (await Promise.all(ids.map((id) => client.status(id)))).some(({ state }) => state !== 'waiting'),
  )
  worker.kill('SIGTERM')
  const [code] = await once(worker, 'exit')
  expect(code).toBe(0)
  const states = (await Promise.all(ids.map((id) => client.status(id)))).map(({ state }) => state)
  expect(states).not.toContain('running')
  expect(states).not.toContain('failed')
  expect(states).toContain('waiting')
  await ready(workerProcess(stage()))
  const results = await Promise.all(ids.map((id) => client.result(id)))
  expect(results.map(({ results }) => results.length)).toEqual([200, 200, 200, 200])
})

it('a second signal forces, and running jobs go back at once', async () => {
  const worker = workerProcess(stage(), '--score-cache-ttl-ms', '0', '--lock-ms', '600000')
  await ready(worker)
  const client = stage().client({ maxJobPairs: 50_000 })
  const id = await client.submit(longRequest('long', 20_000))
  await until('it runs', async () => (await client.status(id)).state === 'running')
  worker.kill('SIGTERM')
  worker.kill('SIGINT')
  await once(worker, 'exit')
  // Its lock would have held it for ten minutes.
  expect(await client.status(id)).toMatchObject({ state: 'waiting' })
})

it('a job that takes its workers down too often ends with an error', async () => {
  const flags = ['--lock-ms', '1000', '--max-stalled', '0', '--score-cache-ttl-ms', '0']
  const first = workerProcess(stage(), ...flags)
  await ready(first)
  const client = stage().client({ maxJobPairs: 50_000 })
  const id = await client.submit(longRequest('deadly', 20_000))
  await until('it runs', async () => (await client.status(id)).state === 'running')
  first.kill('SIGKILL')
  await ready(workerProcess(stage(), ...flags))
  await expect(client.result(id)).rejects.toMatchObject({ code: 'worker_lost' })
})

it('results do not depend on how many workers there are, nor on kills among them', async () => {
  const flags = ['--lock-ms', '1000', '--score-cache-ttl-ms', '0']
  const workers = [workerProcess(stage(), ...flags), workerProcess(stage(), ...flags, '--batch-pairs', '64')]
  await Promise.all(workers.map(ready))
  const client = stage().client({ maxJobPairs: 100 })
  const requests = Array.from({ length: 12 }, (_, i) => longRequest(`request ${i}`, 300))
  const outcomes = new Map<string, unknown>()
  for await (const { id, result, error } of client.rerankAll(requests, { window: 12 })) {
    expect(error).toBeUndefined()
    outcomes.set(id, result?.results)
    if (outcomes.size === 3) {
      workers[0]?.kill('SIGKILL')
      await ready(workerProcess(stage(), ...flags))
    }
  }
  expect(outcomes.size).toBe(12)
  const undisturbed = stage().client({ maxJobPairs: 100_000 })
  for (const request of requests) {
    const { results } = await undisturbed.rerank({ ...request, id: `again ${request.id}` })
    expect(outcomes.get(request.id)).toEqual(results)
  }
})
