/** Fleets of several kinds: each request goes where it can be served, and all of its scores come from one model. */
import { describe, expect, it } from 'vitest'
import { RerankClient } from '../../producer/client.js'
import type { OptionsInput } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { JobPools } from '../../worker/job-pools.js'
import type { RerankWorker } from '../../worker/worker.js'
import { useOwnRedis } from './own-redis.js'
import { documents, endsOf, lifeOf, pacedWorker } from './request-stage.js'
import { REDIS_URL, until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const ONE = 'test/fixtures/models/one-logit'
const TWO = 'test/fixtures/models/roberta'
const QUICK: OptionsInput = { scoreCacheTtlMs: 0, batchPairs: 4 }

const request = (id: string, count = 12): RerankInput => ({
  id,
  model: 'm',
  query: id,
  documents: documents(id, count),
})

/** What a model behind the name `m` gives when nothing disturbs it, by fingerprint. */
async function undisturbed(folder: string, requests: readonly RerankInput[]) {
  const queue = `alone-${folder.split('/').at(-1)}`
  const worker = await stage().worker({ ...QUICK, model: `m=${folder}`, queue })
  const client = stage().client({ queue })
  const results = new Map<string, unknown>()
  let fingerprint = ''
  for (const each of requests) {
    const result = await client.rerank(each)
    results.set(each.id ?? '', result.results)
    fingerprint = result.fingerprint
  }
  await worker.close()
  return [fingerprint, results] as const
}

describe('a rolling upgrade behind one name', () => {
  it('under load: each result is wholly of one version, and none fails', async () => {
    const requests = Array.from({ length: 60 }, (_, i) => request(`r${i}`))
    const versions = new Map([await undisturbed(ONE, requests), await undisturbed(TWO, requests)])
    expect(versions.size).toBe(2)
    const start = (folder: string) => stage().worker({ ...QUICK, model: `m=${folder}`, concurrency: 2 })
    const old = await Promise.all([start(ONE), start(ONE), start(ONE)])
    const client = stage().client({ maxJobPairs: 4 })
    const seen = new Set<string>()
    let done = 0
    let replaced = 0
    const replacing: Promise<unknown>[] = []
    for await (const { id, result, error } of client.rerankAll(requests, { window: 8 })) {
      expect(error).toBeUndefined()
      seen.add(result!.fingerprint)
      expect(result!.results, `${id} by ${result!.fingerprint}`).toEqual(versions.get(result!.fingerprint)?.get(id))
      // One goes at once, the others in their time.
      const leaving: RerankWorker | undefined = ++done % 12 === 0 ? old[replaced] : undefined
      if (leaving) replacing.push(start(TWO).then(() => leaving.close(replaced++ === 0)))
      if (leaving) await replacing.at(-1)
    }
    await Promise.all(replacing)
    expect(done).toBe(60)
    expect(seen.size).toBe(2)
    expect(await endsOf(stage())).toEqual({ completed: 60 })
    const after = await client.rerank(request('after'))
    expect(after.fingerprint).toBe([...versions.keys()][1])
  })

  it('in the middle of a split request: what was scored by the version that is gone is scored again', async () => {
    const [[first], [second, expected]] = [
      await undisturbed(ONE, [request('r')]),
      await undisturbed(TWO, [request('r')]),
    ]
    const client = stage().client({ maxJobPairs: 4 })
    const old = await pacedWorker(stage(), { model: `m=${ONE}`, batchPairs: 4, concurrency: 1 })
    await client.submit(request('r'))
    await until('a batch is there', () => old.pace.handed > 0)
    old.pace.step()
    const { keys } = lifeOf(stage())
    await until('a part is scored', async () => (await stage().redis.hlen(keys.parts('r'))) === 1)
    await old.worker.close(true)
    await stage().worker({ ...QUICK, model: `m=${TWO}` })
    const result = await client.result('r')
    expect(result.fingerprint).toBe(second)
    expect(result.fingerprint).not.toBe(first)
    expect(result.results).toEqual(expected.get('r'))
  })
})

describe('workers of different models', () => {
  it('take what they serve, and leave alone what they do not', async () => {
    const [one, two] = [stage().client(), stage().client()]
    await Promise.all([
      stage().worker({ ...QUICK, model: `x=${ONE}` }),
      stage().worker({ ...QUICK, model: `y=${TWO}` }),
    ])
    const ids = Array.from({ length: 10 }, (_, i) => `r${i}`)
    const ask = (model: string) =>
      Promise.all(ids.map((id) => (model === 'x' ? one : two).rerank({ ...request(`${model} ${id}`), model })))
    const [xs, ys] = await Promise.all([ask('x'), ask('y')])
    for (const { model } of xs) expect(model).toBe('x')
    for (const { model } of ys) expect(model).toBe('y')
    expect(new Set(xs.map(({ fingerprint }) => fingerprint)).size).toBe(1)
    expect(xs[0]!.fingerprint).not.toBe(ys[0]!.fingerprint)
    await one.submit({ ...request('z'), model: 'z' })
    expect(await one.status('z')).toMatchObject({ state: 'waiting', needs: 'z', waitingFor: 'no worker serves z' })
    await stage().worker({ ...QUICK, model: `z=${ONE}` })
    expect((await one.result('z')).model).toBe('z')
  })

  it('serve the default of the fleet, which is the oldest worker’s, and stays when that one leaves', async () => {
    const client = new RerankClient({ redis: REDIS_URL, prefix: stage().prefix, logLevel: 'silent' })
    stage().onEnd(() => client.close())
    const plain = { query: 'q', documents: ['a', 'b'] }
    const first = await stage().worker({ ...QUICK, model: `x=${ONE}` })
    await stage().worker({ ...QUICK, model: `y=${TWO},x=${ONE}` })
    expect((await client.rerank(plain)).model).toBe('x')
    await first.close()
    // The next sign of life of the other.
    await until('the other is asked', async () => (await client.rerank(plain)).model === 'y')
  })
})

describe('a pool that needs more than a model', () => {
  const fp16 = { query: 'q', documents: ['a', 'b'], model: 'x', strategy: { dtype: 'fp16' as const } }
  const cascade = {
    query: 'q',
    documents: documents('d', 30),
    model: 'x',
    strategy: { cascade: [{ model: 'y', keep: 10 }] },
  }

  it('is noticed when the first request comes for it', async () => {
    const worker = await stage().worker({ ...QUICK, model: `x=${ONE},y=${TWO}` })
    await stage().worker({ ...QUICK, model: `x=${TWO}` })
    const client = stage().client()
    expect(await client.rerank(cascade)).toMatchObject({ model: 'x', usage: { cascaded: 20 } })
    const only = await stage().worker({ ...QUICK, model: `w=${ONE}` })
    expect(await client.rerank({ ...fp16, model: 'w' })).toMatchObject({ model: 'w', dtype: 'fp16' })
    await Promise.all([worker.close(), only.close()])
  })

  it('is taken up by a worker that comes later, and let go when it is idle', async () => {
    const client = stage().client()
    await client.submit({ id: 'later', ...cascade })
    const { redis } = stage()
    const connection = redis.duplicate({ maxRetriesPerRequest: null })
    let taken = 0
    const pools = new JobPools(
      connection,
      stage().options(),
      ['x', 'y'],
      {
        take: async () => void taken++,
        completed: () => undefined,
        failed: () => undefined,
        error: () => undefined,
        load: () => ({ pairsWaiting: 0, roundPairs: 8 }),
        serves: () => true,
      },
      1,
    )
    stage().onEnd(async () => {
      await pools.close()
      connection.disconnect()
    })
    await pools.run()
    const watched = () => pools.take().map(({ name }) => name)
    expect(pools.unwatched(['x', 'x+y'])).toEqual(['x+y'])
    await pools.follow(['x+y'])
    await until('its job was taken', () => taken === 1)
    await until('it is let go', async () => pools.follow([]).then(() => !watched().includes('x+y')))
    expect(watched()).toEqual(['x', 'y'])
    await pools.notice('x+y')
    expect(watched()).toContain('x+y')
  })
})

it('holds two connections a model and two more a worker, and a producer two', async () => {
  const { url, admin } = await ownRedis()
  const connections = async () =>
    String(await admin.client('LIST'))
      .trim()
      .split('\n').length - 1
  const worker = await stage().worker({ ...QUICK, redis: url, model: `x=${ONE},y=${TWO}` })
  expect(await connections()).toBe(2 + 2 * 2)
  const client = stage().client({ redis: url })
  for (const model of ['x', 'y']) await client.rerank({ ...request(model), model })
  expect(await connections()).toBe(2 + 2 * 2 + 2)
  for (let i = 0; i < 20; i++) await client.submit({ ...request(`r${i}`), model: `absent ${i}` })
  expect(await connections()).toBe(2 + 2 * 2 + 2)
  await worker.close()
  await until('those of the worker are gone', async () => (await connections()) === 2)
})
