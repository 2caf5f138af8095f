/** A fleet that is spread over several shards, on one Redis: everything that a fleet of one does. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Registry } from 'prom-client'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { collectQueues, fleetState } from '../../monitoring/queue-collector.js'
import { openBatch } from '../../producer/batch/batch-file.js'
import { keysOf } from '../../shared/protocol/keys.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { shardOf, shardPrefixes } from '../../shared/protocol/shards.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { runCommand } from './command.js'
import { kill } from './own-redis.js'
import { documents, pacedWorker } from './request-stage.js'
import { REDIS_URL, type Stage, TINY_MODEL, until, useStage } from './stage.js'
import { ready, workerProcess } from './worker-process.js'

const stage = useStage()
const SHARDS = 3
const three = { shards: SHARDS }

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-shards-'))
})
afterEach(() => rm(folder, { recursive: true }))

const request = (id: string, count = 3): RerankInput => ({ id, query: id, documents: documents(id, count) })
const keysOfShard = (s: Stage, shard: number) => keysOf(shardPrefixes(s.prefix, SHARDS)[shard] ?? '', 'rerank')
/** An id in a shard. */
const idIn = (shard: number, name = 'r') =>
  Array.from({ length: 1000 }, (_, i) => `${name}-${i}`).find((id) => shardOf(id, SHARDS) === shard) ?? ''
const perShard = [0, 1, 2].map((shard) => idIn(shard))
const command = (s: Stage, ...args: string[]) =>
  runCommand(args, folder, { RANKMILL_REDIS: REDIS_URL, RANKMILL_PREFIX: s.prefix, RANKMILL_SHARDS: String(SHARDS) })

describe('a request', () => {
  it('is in the shard that its id names, whoever asks for it', async () => {
    const client = stage().client(three)
    for (const id of perShard) await client.submit(request(id))
    for (const [shard, id] of perShard.entries()) {
      for (const other of [0, 1, 2]) {
        expect(await stage().redis.exists(keysOfShard(stage(), other).request(id))).toBe(other === shard ? 1 : 0)
      }
      expect((await stage().client(three).status(id)).state).toBe('waiting')
    }
    await stage().worker(three)
    for (const id of perShard) {
      await client.submit(request(id))
      expect((await stage().client(three).result(id)).results).toHaveLength(3)
    }
    await expect(client.submit({ ...request(perShard[1] ?? ''), query: 'other' })).rejects.toMatchObject({
      code: 'conflict',
    })
    expect(await client.forget([...perShard, 'unknown'])).toBe(3)
    await expect(client.status(perShard[2] ?? '')).rejects.toMatchObject({ code: 'not_found' })
  })

  it('shares the job of one of the same content, whichever shard that is in', async () => {
    const queries = Array.from({ length: 6 }, (_, i) => ({ query: `same ${i}`, documents: ['a', 'b'] }))
    const clients = [stage().client(three), stage().client(three)]
    const asked = queries.flatMap((one) => clients.map((client) => client.rerank(one)))
    const shards = await Shards.open(stage().options(three), connectProducer, 'observer')
    stage().onEnd(() => shards.close())
    const noted = async () => {
      const open = await Promise.all(shards.all.map(({ redis, keys }) => redis.zcard(keys.open)))
      return open.reduce((sum, count) => sum + count, 0)
    }
    await until('all are noted', async () => (await noted()) === queries.length)
    await stage().worker(three)
    const results = await Promise.all(asked)
    expect(new Set(results.map(({ id }) => id)).size).toBe(queries.length)
    // What was joined is found again by its id.
    for (const { id } of results) expect((await clients[1]!.status(id)).state).toBe('completed')
  })

  it('is cancelled, ends at its deadline, and is split, in every shard', async () => {
    const { pace } = await pacedWorker(stage(), three)
    const client = stage().client({ ...three, maxJobPairs: 2 })
    const cancelled = perShard.map((id) => client.rerank(request(id, 5)))
    for (const outcome of cancelled) outcome.catch(() => undefined)
    await until('all run', async () => {
      const states = await Promise.all(perShard.map((id) => client.status(id).catch(() => undefined)))
      return states.every((one) => one?.state === 'running')
    })
    for (const id of perShard) expect(await client.cancel(id)).toBe(true)
    for (const outcome of cancelled) await expect(outcome).rejects.toMatchObject({ code: 'cancelled' })
    const late = [0, 1, 2].map((shard) => client.rerank({ ...request(idIn(shard, 'late')), deadlineMs: 300 }))
    await Promise.all(late.map((outcome) => expect(outcome).rejects.toMatchObject({ code: 'deadline_exceeded' })))
    pace.release()
    for (const shard of [0, 1, 2]) {
      expect((await client.rerank(request(idIn(shard, 'split'), 7))).results).toHaveLength(7)
    }
  })

  it('has its bounds in each shard', async () => {
    const client = stage().client({ ...three, maxQueuedJobs: 2 })
    const outcomes = await Promise.allSettled(
      [0, 1, 2].flatMap((shard) => ['a', 'b', 'c'].map((name) => client.submit(request(idIn(shard, name))))),
    )
    const refused = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason.code] : []))
    expect(refused).toEqual(['overloaded', 'overloaded', 'overloaded'])
  })

  it('goes before the bulk work of all shards, whichever it is in', async () => {
    const client = stage().client(three)
    const bulk = Array.from({ length: 300 }, (_, i) => ({ ...request(`bulk-${i}`, 8), priority: 500 }))
    for (const one of bulk) await client.submit(one)
    const { pace } = await pacedWorker(stage(), { ...three, batchPairs: 8 })
    pace.release()
    await until('bulk work is in full swing', () => pace.run > 20)
    pace.hold()
    const asked = perShard.map((id) => client.rerank(request(id, 8)))
    await until('all are in hand', async () => {
      const states = await Promise.all(perShard.map((id) => client.status(id).catch(() => undefined)))
      return states.every((one) => one?.state === 'running')
    })
    // Two batches were held already, three are theirs, one in four is for what has waited for long.
    for (let i = 0; i < 12; i++) {
      const { run } = pace
      pace.step()
      await until('a batch has run', () => pace.run > run)
    }
    for (const one of await Promise.all(asked)) expect(one.results).toHaveLength(8)
    const shards = await Shards.open(stage().options(three), connectProducer, 'observer')
    stage().onEnd(() => shards.close())
    const waiting = (await fleetState(shards.all)).queues.reduce((sum, { jobs }) => sum + jobs.waiting, 0)
    expect(waiting).toBeGreaterThan(100)
    pace.release()
  })

  it('that finds its lane full is let in when there is room, in every shard', async () => {
    await stage().worker(three)
    const client = stage().client({ ...three, maxQueuedJobs: 2 })
    const requests = Array.from({ length: 40 }, (_, i) => request(`much-${i}`))
    const done = new Set<string>()
    for await (const { id, error } of client.rerankAll(requests, { window: 40 })) {
      expect(error).toBe(undefined)
      done.add(id)
    }
    expect(done.size).toBe(requests.length)
  })

  it('that no worker takes is ended by who looks after each shard', async () => {
    await stage().worker({ ...three, model: `other=${TINY_MODEL}`, unservedMs: 1000 })
    const client = stage().client({ ...three, model: 'nobody', unservedMs: 1000 })
    for (const id of perShard) await client.submit({ ...request(`${id}-late`), deadlineMs: 300 })
    for (const id of perShard) await client.submit(request(id))
    for (const id of perShard) await expect(client.result(id)).rejects.toMatchObject({ code: 'unknown_model' })
    for (const id of perShard) {
      await expect(client.result(`${id}-late`)).rejects.toMatchObject({ code: 'deadline_exceeded' })
    }
  })

  it('that names no model means the same in all shards, and after the one who said so has left', async () => {
    const model = async () => {
      const models = [0, 1, 2].map((shard) => stage().redis.hget(keysOfShard(stage(), shard).fleet, 'model'))
      return [...new Set(await Promise.all(models))]
    }
    const workers = await Promise.all(
      ['one', 'two', 'three'].map((name) => stage().worker({ ...three, model: `${name}=${TINY_MODEL}` })),
    )
    await until('all shards say the same', async () => (await model()).length === 1)
    const [first] = await model()
    const owner = workers.find(({ scorers }) => scorers.names[0] === first)
    await owner?.close(true)
    await until('the next one says it everywhere', async () => {
      const now = await model()
      return now.length === 1 && now[0] !== first
    })
  })
})

describe('what a fleet keeps', () => {
  it('corpora lie once, and are read by requests of all shards', async () => {
    const client = stage().client({ ...three, maxJobPairs: 2 })
    const names = Array.from({ length: 6 }, (_, i) => `corpus-${i}`)
    const texts = ['cats purr', 'dogs bark', 'rivers flow', 'a cat is no dog', 'stones lie']
    for (const name of names) {
      const passages = texts.map((text, i) => ({ id: `d${i}`, text }))
      expect(await client.putCorpus(name, passages)).toMatchObject({ passages: 5, version: '1' })
    }
    const layers = (await stage().redis.keys('*corpus-layer:*')).filter((key) =>
      key.includes(stage().prefix.slice(1, -1)),
    )
    expect(layers).toHaveLength(names.length)
    expect(new Set(layers.map((key) => key.split('}')[0])).size).toBeGreaterThan(1)
    await stage().worker(three)
    const ids = texts.map((_, i) => `d${i}`)
    const inline = await client.rerank({ query: 'cats', documents: texts })
    const scores = inline.results.map(({ relevance_score }) => relevance_score)
    for (const corpus of names) {
      for (const id of perShard) {
        const result = await client.rerank({ id: `${id}-${corpus}`, query: 'cats', documents: { corpus, ids } })
        expect(result.results.map(({ relevance_score }) => relevance_score)).toEqual(scores)
      }
    }
    const version = await client.pinCorpus('corpus-0', 'me', 60_000)
    await client.putCorpus('corpus-0', [{ id: 'd0', text: 'other' }])
    const pinned = await client.rerank({ query: 'cats', documents: { corpus: 'corpus-0', version, ids } })
    expect(pinned.results.map(({ relevance_score }) => relevance_score)).toEqual(scores)
    await client.releaseCorpus('corpus-0', 'me')
    const { stdout } = await command(stage(), 'corpus', 'ls', '--redis', REDIS_URL)
    expect(
      stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).name),
    ).toEqual(names)
  })

  it('known scores are found whichever shard the request is in', async () => {
    await stage().worker({ ...three, localScoreCacheEntries: 0 })
    const client = stage().client(three)
    const [first, ...others] = perShard.map((id) => ({ ...request(id), query: 'the same', documents: ['a', 'b'] }))
    expect((await client.rerank(first!)).usage.cached).toBe(0)
    for (const other of others) expect((await client.rerank(other)).usage.cached).toBe(2)
  })
})

describe('what is told of it', () => {
  it('status, metrics and doctor add up or list its shards', async () => {
    const client = stage().client(three)
    for (const shard of [0, 1, 2]) {
      for (let i = 0; i <= shard; i++) await client.submit(request(idIn(shard, `waits-${i}`)))
    }
    const shards = await Shards.open(stage().options(three), connectProducer, 'observer')
    stage().onEnd(() => shards.close())
    const { queues, shards: seen } = await fleetState(shards.all)
    expect(queues.filter(({ lane }) => lane === 'interactive').map(({ jobs }) => jobs.waiting)).toEqual([6])
    expect(seen.map((one) => one.queues.reduce((sum, { jobs }) => sum + jobs.waiting, 0))).toEqual([1, 2, 3])
    const json = JSON.parse((await command(stage(), 'status', '--json')).stdout)
    expect(json.shards.map(({ prefix }: { prefix: string }) => prefix)).toEqual(shardPrefixes(stage().prefix, SHARDS))
    expect(json.queues[0].jobs.waiting + json.queues[1].jobs.waiting).toBe(6)
    const text = (await command(stage(), 'metrics', '--once')).stdout
    for (const shard of [0, 1, 2]) {
      expect(text).toMatch(new RegExp(`rankmill_queue_jobs{.*lane="interactive".*shard="${shard}".*} ${shard + 1}\n`))
    }
    const worker = await stage().worker(three)
    await until('all are done', async () =>
      (await fleetState(shards.all)).queues.every(({ jobs }) => jobs.waiting === 0),
    )
    const [told, ...more] = await client.workers()
    expect(more).toEqual([])
    expect(told).toMatchObject({ id: worker.id })
    const registry = new Registry()
    collectQueues(registry, shards, () => true)
    const metrics = await registry.metrics()
    expect(metrics).toMatch(/rankmill_workers{.*} 1\n/)
    for (const shard of [0, 1, 2]) {
      const done = new RegExp(`rankmill_requests_total{.*outcome="completed".*shard="${shard}".*} ${shard + 1}\n`)
      await until('its ends are counted', async () => done.test(await registry.metrics()))
    }
    const doctor = (await command(stage(), 'doctor', '--json', '--model', TINY_MODEL)).stdout
    expect(doctor.match(/shard [012] \(/g)).toHaveLength(6)
    expect(doctor).toContain('1 alive')
  })

  it('failed jobs of all shards are listed newest first, shown and tried again', async () => {
    const broken = { ...three, corpusRoot: folder }
    const worker = await stage().worker(broken)
    const client = stage().client(broken)
    for (const id of perShard) {
      const documents = { corpus: `file:${join(folder, 'later')}`, ids: ['a'] }
      await expect(client.rerank({ id, query: 'q', documents })).rejects.toMatchObject({ name: 'RankmillError' })
    }
    await worker.close(true)
    const rows = async () =>
      (await command(stage(), 'failed', 'ls')).stdout
        .trim()
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line).id)
    await until('all are failed', async () => (await rows()).length === SHARDS)
    expect(await rows()).toEqual([...perShard].reverse())
    const shown = await command(stage(), 'failed', 'show', perShard[1] ?? '')
    expect(JSON.parse(shown.stdout).id).toBe(perShard[1])
    const retried = await command(stage(), 'failed', 'retry', 'all')
    expect(retried.stderr).toContain('3 job(s) back in the queue')
    for (const id of perShard) expect((await client.status(id)).state).toBe('waiting')
  })

  it('connections are two a shard and two more for each model of a worker, two a shard of a client', async () => {
    const count = async () =>
      String(await stage().redis.client('LIST'))
        .trimEnd()
        .split('\n').length
    const before = await count()
    await stage().worker(three)
    expect((await count()) - before).toBe(SHARDS * 4)
    const client = stage().client(three)
    for (const id of perShard) await client.rerank(request(id))
    expect((await count()) - before).toBe(SHARDS * (4 + 2))
  })
})

describe('a batch', () => {
  it('is spread over the shards, byte-equal to one of a single shard, also where a worker is killed', async () => {
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
    const lines = Array.from({ length: 300 }, (_, i) =>
      JSON.stringify({ custom_id: `request-${i}`, body: { query: `query ${i}`, documents: documents(`r${i}`, 5) } }),
    )
    await writeFile(input, `${lines.join('\n')}\n`)
    const single = await stage().worker({ queue: 'single' })
    await (await openBatch({ input, output })).run(stage().client({ queue: 'single' }))
    const expected = await readFile(output, 'utf8')
    await single.close(true)

    const flags = ['--shards', String(SHARDS), '--score-cache-ttl-ms', '0']
    const [killed, stays] = [workerProcess(stage(), ...flags), workerProcess(stage(), ...flags)]
    await Promise.all([ready(killed), ready(stays)])
    const run = await openBatch({ input, output, overwrite: true, options: { resubmitMs: 2000 } })
    const running = run.run(stage().client({ ...three, model: TINY_MODEL }))
    await until('some lines are written', () => run.progress().requests > 20)
    await kill(killed)
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: 300, failed: 0 } })
    expect(await readFile(output, 'utf8')).toBe(expected)
    const ends = await Promise.all([0, 1, 2].map((shard) => stage().redis.hvals(keysOfShard(stage(), shard).ends)))
    const perShardDone = ends.map((counts) => counts.reduce((sum, count) => sum + Number(count), 0))
    expect(perShardDone.reduce((sum, count) => sum + count, 0)).toBe(300)
    for (const done of perShardDone) expect(done).toBeGreaterThan(60)
  })
})

describe('another number of shards', () => {
  const refusal = (has: number, why: string) => ({
    code: 'invalid_configuration',
    message: expect.stringMatching(new RegExp(`has ${has}.*--shards ${has}.*in the way: ${why}`)),
  })

  it('is refused to clients and workers while there is anything in the fleet', async () => {
    const worker = await stage().worker(three)
    const client = stage().client(three)
    for (const shards of [1, 2]) {
      await expect(stage().client({ shards }).workers()).rejects.toMatchObject(refusal(3, 'this is not a worker'))
      await expect(stage().worker({ shards })).rejects.toMatchObject(refusal(3, '1 worker'))
    }
    await worker.close()
    await client.submit(request(perShard[2] ?? ''))
    await expect(stage().worker({ shards: 1 })).rejects.toMatchObject(refusal(3, '1 or more of its requests'))
    await client.cancel(perShard[2] ?? '')
    await client.putCorpus('kept', [{ id: 'a', text: 'one' }])
    await expect(stage().worker({ shards: 1 })).rejects.toMatchObject(refusal(3, '1 or more corpora'))
    expect((await stage().client(three).workers()).length).toBe(0)
    const { code, stderr } = await runCommand(['status', '--shards', '1'], folder, {
      RANKMILL_REDIS: REDIS_URL,
      RANKMILL_PREFIX: stage().prefix,
    })
    expect(code).not.toBe(0)
    expect(stderr).toContain('--shards 3')
  })

  it('is taken by a worker that finds the fleet empty; who is still connected is refused then', async () => {
    const before = stage().client(three)
    const worker = await stage().worker(three)
    await before.rerank(request(perShard[1] ?? ''))
    await worker.close()
    await stage().worker({ shards: 2 })
    for (const id of perShard) {
      await expect(before.submit(request(`${id}-again`))).rejects.toMatchObject(refusal(2, 'it was changed'))
    }
    const client = stage().client({ shards: 2 })
    for (const id of perShard) expect((await client.rerank(request(id))).results).toHaveLength(3)
  })

  it('of a fleet of one is changed by its next worker, never by a client', async () => {
    const worker = await stage().worker()
    await stage().client().rerank(request('r'))
    await worker.close()
    await expect(stage().client(three).workers()).rejects.toMatchObject(refusal(1, 'only a worker'))
    expect(await stage().redis.hget(keysOf(stage().prefix, 'rerank').fleet, 'shards')).toBe(null)
    await stage().worker(three)
    await expect(stage().client({ shards: 1 }).workers()).rejects.toMatchObject(refusal(3, 'this is not a worker'))
    expect((await stage().client(three).rerank(request('r', 4))).results).toHaveLength(4)
  })

  it('is said again where Redis has forgotten it', async () => {
    const client = stage().client(three)
    await client.workers()
    for (const shard of [0, 1, 2]) await stage().redis.del(keysOfShard(stage(), shard).fleet)
    for (const id of perShard) await client.submit(request(id))
    await expect(stage().client({ shards: 1 }).workers()).rejects.toMatchObject(refusal(3, 'this is not a worker'))
  })

  it('is not meant by who names none: clients, workers and commands take what the fleet has', async () => {
    const worker = await stage().worker(three)
    await stage()
      .client(three)
      .submit(request(perShard[2] ?? ''))
    expect(
      (
        await stage()
          .client()
          .result(perShard[2] ?? '')
      ).results,
    ).toHaveLength(3)
    await worker.close()
    // Nothing is in it, and the next worker would be let change it.
    await stage().worker()
    for (const id of perShard)
      expect(
        (
          await stage()
            .client()
            .rerank(request(`${id}-b`))
        ).results,
      ).toHaveLength(3)
    expect(await stage().redis.hget(keysOfShard(stage(), 0).fleet, 'shards')).toBe('3')
    const { code, stdout } = await runCommand(['status', '--json'], folder, {
      RANKMILL_REDIS: REDIS_URL,
      RANKMILL_PREFIX: stage().prefix,
    })
    expect(code).toBe(0)
    expect(JSON.parse(stdout).shards).toHaveLength(3)
  })

  it('is never read from a fleet that is just about to begin: whoever only looks is let in', async () => {
    const looks = Array.from({ length: 40 }, async (_, i) => {
      const prefix = `${stage().prefix.slice(0, -1)}-new-${i}}`
      const options = stage().options({ ...three, prefix })
      const opened = await Promise.all([
        Shards.open(options, connectProducer, 'producer'),
        Shards.open(options, connectProducer, 'observer'),
        Shards.open(options, connectProducer, 'observer'),
      ])
      for (const shards of opened) shards.close()
      return opened.map(({ all }) => all.length)
    })
    for (const sizes of await Promise.all(looks)) expect(sizes).toEqual([3, 3, 3])
  })
})

it('a fleet of one shard has the keys that it always had', async () => {
  await stage().worker()
  const client = stage().client()
  await client.rerank(request('r'))
  const other = await stage().redis.keys(`*${stage().prefix.slice(1, -1)}:*`)
  expect(other).toEqual([])
  expect(await stage().redis.hkeys(keysOf(stage().prefix, 'rerank').fleet)).not.toContain('shards')
})
