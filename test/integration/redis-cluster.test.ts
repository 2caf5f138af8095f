/** Rankmill on a real Redis Cluster: all of a request's life, while its slot moves and its primary dies. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { seeShards } from '../../cli/seen-shards.js'
import { openBatch } from '../../producer/batch/batch-file.js'
import { Corpora } from '../../shared/corpus/corpora.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { shardOf, shardPrefixes } from '../../shared/protocol/shards.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { untilPasses } from '../../shared/redis/until-passes.js'
import { Api } from './api.js'
import { runCommand } from './command.js'
import { OwnCluster } from './own-cluster.js'
import { kill, type OwnRedis, useOwnRedis } from './own-redis.js'
import { Stage, until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const LINES = 200
const DOCUMENTS = ['cats purr', 'dogs bark', 'rivers flow to the sea', 'a cat is no dog']

let folder: string
let input: string
let output: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-cluster-'))
  input = join(folder, 'in.jsonl')
  output = join(folder, 'out.jsonl')
  const lines = Array.from({ length: LINES }, (_, i) =>
    JSON.stringify({
      custom_id: `request-${i}`,
      body: { query: `query ${i}`, documents: Array.from({ length: 5 }, (_, k) => `passage ${k} of request ${i}`) },
    }),
  )
  await writeFile(input, `${lines.join('\n')}\n`)
})
afterEach(() => rm(folder, { recursive: true }))

/** Connections to all of its nodes, but for the test's own. */
async function connectionsTo({ nodes }: OwnCluster): Promise<number> {
  const lists = await Promise.all(nodes.map(({ admin }) => admin.client('LIST')))
  return lists.reduce<number>((sum, list) => sum + String(list).trimEnd().split('\n').length - 1, 0)
}

async function linesOfOutput(): Promise<string[]> {
  return (await readFile(output, 'utf8')).trimEnd().split('\n').sort()
}

describe('a Redis Cluster', () => {
  it('serves all of a request’s life, a corpus, caches and a batch', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { url: redis } = cluster
    const client = stage().client({ redis })
    const waiting = await client.submit({ id: 'cancelled', query: 'x', documents: DOCUMENTS })
    expect(await client.cancel(waiting)).toBe(true)
    await stage().worker({ redis })

    const first = await client.rerank({ query: 'cats', documents: DOCUMENTS })
    expect(first.results).toHaveLength(4)
    const again = await client.rerank({ query: 'cats', documents: DOCUMENTS })
    expect(again.results).toEqual(first.results)
    expect(again.usage.cached).toBe(4)
    const id = await client.submit({ query: 'dogs', documents: DOCUMENTS })
    expect((await client.result(id)).results).toHaveLength(4)
    await expect(client.result('cancelled')).rejects.toMatchObject({ code: 'cancelled' })
    // A worker of one model: commands, messages, and one that blocks for each lane; a producer: commands and messages.
    expect(await connectionsTo(cluster)).toBe(4 + 2)
    const split = stage().client({ redis, maxJobPairs: 2 })
    expect((await split.rerank({ query: 'rivers', documents: DOCUMENTS })).results).toHaveLength(4)

    await client.putCorpus(
      'animals',
      DOCUMENTS.map((text, i) => ({ id: `d${i}`, text })),
    )
    const ids = DOCUMENTS.map((_, i) => `d${i}`)
    const byReference = await client.rerank({ query: 'cats', documents: { corpus: 'animals', ids } })
    expect(byReference.results.map(({ relevance_score }) => relevance_score)).toEqual(
      first.results.map(({ relevance_score }) => relevance_score),
    )

    const run = await openBatch({ input, output })
    expect(await run.run(client)).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    expect(await client.forget([id])).toBe(1)
    expect(await client.workers()).toHaveLength(1)
  })

  it('answers a batch byte for byte while the slot moves and its new primary is killed', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { url: redis } = cluster
    const { prefix } = stage()
    const source = await cluster.ownerOf(prefix)
    const target = cluster.other([source])
    const replica = await cluster.replicate(target)
    // Jobs that were fetched over a connection that broke return when their lock runs out.
    const steady = { redis, lockMs: 2000, scoreCacheTtlMs: 0 }
    await stage().worker({ ...steady, queue: 'undisturbed' })
    const undisturbed = await openBatch({ input, output })
    await undisturbed.run(stage().client({ redis, queue: 'undisturbed' }))
    const expected = await linesOfOutput()

    await stage().worker(steady)
    const run = await openBatch({ input, output, overwrite: true, options: { resubmitMs: 1000 } })
    const running = run.run(stage().client({ redis, attempts: 20 }))
    await until('some lines are written', () => run.progress().requests > 10)
    await cluster.moveSlot(prefix, target, async () => undefined)
    expect(await cluster.ownerOf(prefix)).toBe(target)
    const before = run.progress().requests
    expect(before).toBeLessThan(LINES)
    await until('it goes on after the move', () => run.progress().requests > before)
    await kill(target.process)
    await until('the replica took over', async () => /role:master/.test(await replica.admin.info('replication')))
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    expect(await linesOfOutput()).toEqual(expected)
  })

  it('needs no more rights than docs/redis.md lists', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { prefix } = stage()
    const documented =
      /^ACL SETUSER rankmill (.*)$/m.exec(await readFile('docs/redis.md', 'utf8'))?.[1]?.split(' ') ?? []
    const rules = documented.map((rule) => rule.replace('>PASSWORD', '>secret').replace('{rankmill}', prefix))
    for (const { admin } of cluster.nodes) await admin.acl('SETUSER', 'rankmill', ...rules)
    const redis = cluster.url.replace('//', '//rankmill:secret@')
    await stage().worker({ redis })
    const client = stage().client({ redis })
    expect((await client.rerank({ query: 'cats', documents: DOCUMENTS })).results).toHaveLength(4)
    // Of several shards each has a prefix that begins as the first one's.
    const begins = rules.map((rule) => rule.replace(`${prefix}:*`, `${prefix.slice(0, -1)}*`))
    for (const { admin } of cluster.nodes) await admin.acl('SETUSER', 'spread', ...begins)
    const spread = { redis: cluster.url.replace('//', '//spread:secret@'), shards: 3, queue: 'spread' }
    await stage().worker(spread)
    expect((await stage().client(spread).rerank({ query: 'cats', documents: DOCUMENTS })).results).toHaveLength(4)
    for (const { admin } of cluster.nodes) expect(await admin.call('ACL', 'LOG')).toEqual([])
  })

  it('lets calls wait while the slot is half moved, and answers them after', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { url: redis } = cluster
    const client = stage().client({ redis })
    await stage().worker({ redis, lockMs: 2000 })
    await client.rerank({ query: 'cats', documents: DOCUMENTS })
    const { prefix } = stage()
    await client.putCorpus('kept', [{ id: 'a', text: 'one' }])
    const redisOfCorpora = await connectProducer(stage().options({ redis }))
    stage().onEnd(() => redisOfCorpora.disconnect())
    // Reads in transactions, and does nothing else.
    const corpora = new Corpora(redisOfCorpora, keysOf(prefix, 'rerank'))
    const read = () => untilPasses(() => corpora.read('kept', null, ['a']), { limitMs: 20_000 })
    expect(await read()).toMatchObject({ texts: ['one'] })
    const source = await cluster.ownerOf(prefix)
    const target = cluster.other([source])
    let answered = false
    let asked: Promise<unknown[]> | undefined
    await cluster.moveSlot(prefix, target, async () => {
      const calls = [
        client.rerank({ query: 'dogs', documents: DOCUMENTS }),
        client.putCorpus('moving', [{ id: 'a', text: 'one' }]),
        read(),
      ]
      asked = Promise.all(calls).finally(() => {
        answered = true
      })
      asked.catch(() => undefined)
      const redirected = async () => /errorstat_(ASK|TRYAGAIN):/.test(await source.admin.info('errorstats'))
      await until('some command met the move', redirected)
      expect(answered).toBe(false)
    })
    expect(await asked).toMatchObject([{ results: { length: 4 } }, { passages: 1 }, { texts: ['one'] }])
    expect(await read()).toMatchObject({ texts: ['one'] })
    expect(await client.pinCorpus('moving', 'holder', 60_000)).toBe('1')
  })
})

describe('a fleet of three shards on three primaries', () => {
  it('has each of its shards on a primary of its own, and answers a batch byte for byte while one is killed', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { url: redis } = cluster
    const prefixes = shardPrefixes(stage().prefix, 3)
    const owners = await Promise.all(prefixes.map((prefix) => cluster.ownerOf(prefix)))
    expect(new Set(owners).size).toBe(3)
    const replica = await cluster.replicate(owners[1] as OwnRedis)
    const steady = { redis, lockMs: 2000, scoreCacheTtlMs: 0 }
    await stage().worker({ ...steady, queue: 'single' })
    await (await openBatch({ input, output })).run(stage().client({ redis, queue: 'single' }))
    const expected = await linesOfOutput()

    await stage().worker({ ...steady, shards: 3 })
    const keysOn = async () =>
      (await Promise.all(owners.map(({ admin }) => admin.keys('*:request:rerank:*')))).map((keys) => keys.length)
    const run = await openBatch({ input, output, overwrite: true, options: { resubmitMs: 1000 } })
    const running = run.run(stage().client({ redis, shards: 3, attempts: 20 }))
    await until('each primary has requests of it', async () => (await keysOn()).every((count) => count > 0))
    await until('some lines are written', () => run.progress().requests > 10)
    await kill((owners[1] as OwnRedis).process)
    await until('the replica took over', async () => /role:master/.test(await replica.admin.info('replication')))
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    expect(await linesOfOutput()).toEqual(expected)
  })

  it('goes on in the other shards while the primary of one is away', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    for (const { admin } of cluster.nodes) await admin.config('SET', 'cluster-require-full-coverage', 'no')
    const spread = { redis: cluster.url, shards: 3 }
    await stage().worker(spread)
    const client = stage().client({ ...spread, commandTimeoutMs: 1000 })
    const ids = Array.from({ length: 12 }, (_, i) => `r${i}`)
    const away = ids.filter((id) => shardOf(id, 3) === 1)
    await client.submit({ id: 'before', query: 'cats', documents: DOCUMENTS })
    await kill((await cluster.ownerOf(shardPrefixes(stage().prefix, 3)[1] ?? '')).process)
    const asked = ids.map((id) => client.rerank({ id, query: id, documents: DOCUMENTS }, { timeoutMs: 20_000 }))
    const outcomes = await Promise.allSettled(asked)
    const failed = outcomes.flatMap((one, i) => (one.status === 'rejected' ? [[ids[i], one.reason.code]] : []))
    expect(failed).toEqual(away.map((id) => [id, 'redis_unavailable']))
    expect(await client.workers()).toHaveLength(1)
  })

  it.each([1, 0])('shows the others, and which it is, while shard %i does not answer', async (gone) => {
    const cluster = await OwnCluster.start(ownRedis)
    for (const { admin } of cluster.nodes) await admin.config('SET', 'cluster-require-full-coverage', 'no')
    const spread = { redis: cluster.url, shards: 3 }
    await stage().worker(spread)
    const client = stage().client(spread)
    for (let i = 0; i < 6; i++) await client.rerank({ id: `r${i}`, query: 'cats', documents: DOCUMENTS })
    const prefixes = shardPrefixes(stage().prefix, 3)
    const api = await Api.start(stage(), { ...spread, commandTimeoutMs: 2000 })
    expect((await api.get('/v1/status')).body.shards_away).toEqual([])
    await kill((await cluster.ownerOf(prefixes[gone] ?? '')).process)

    const shown = (await api.get('/v1/status')).body
    expect(shown.shards_away).toMatchObject([{ shard: gone, error: { code: 'redis_unavailable' } }])
    expect([shown.workers.length, shown.queues.length]).toEqual([1, expect.any(Number)])
    expect((await api.get('/queues/api/queues')).status).toBe(200)

    const named = { RANKMILL_REDIS: cluster.url, RANKMILL_PREFIX: stage().prefix, RANKMILL_COMMAND_TIMEOUT_MS: '2000' }
    const environment = { ...named, RANKMILL_SHARDS: '3' }
    const status = await runCommand(['status', '--json'], folder, environment)
    expect(status.code).toBe(3)
    const { workers, shards } = JSON.parse(status.stdout)
    expect(workers).toHaveLength(1)
    expect(shards.map(({ shard, prefix }: { shard: number; prefix: string }) => [shard, prefix])).toEqual(
      prefixes.map((prefix, i) => [i, prefix]),
    )
    for (const { shard, error, queues } of shards) {
      if (shard === gone) expect([error.code, queues]).toEqual(['redis_unavailable', undefined])
      else expect(queues.length).toBeGreaterThan(0)
    }
    const read = await runCommand(['status'], folder, environment)
    expect(read.stdout).toMatch(new RegExp(`^${gone} .*\\{.*\\}.* away *$`, 'm'))
    expect(read.stderr).toContain(`redis_unavailable: shard ${gone} (${prefixes[gone]}) is not in these numbers`)

    const doctor = await runCommand(['doctor', '--json', '--no-calibrate'], folder, environment)
    const findings = doctor.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(doctor.code).toBe(3)
    const redis = findings.filter(({ what }) => what === 'Redis')
    expect(redis.map(({ state }) => state).sort()).toEqual(['fault', 'ok', 'ok'])
    expect(redis.find(({ state }) => state === 'fault').detail).toContain(`shard ${gone} (${prefixes[gone]}): cannot`)
    expect(findings.find(({ what }) => what === 'Workers')).toMatchObject({ state: 'ok' })

    // Nobody says how many there are: those that are left do.
    const seen = await seeShards({ ...stage().options({ ...spread, commandTimeoutMs: 2000 }), shards: 0 })
    stage().onEnd(() => seen.close())
    expect(seen.shards.map(({ index }) => index)).toEqual([0, 1, 2].filter((shard) => shard !== gone))
    expect(seen.away.map(({ index, prefix }) => [index, prefix])).toEqual([[gone, prefixes[gone]]])
  })

  it('declares every key that its scripts touch, and serves corpora, cancellation and forgetting', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const { url: redis } = cluster
    const spread = { redis, shards: 3 }
    const client = stage().client({ ...spread, maxJobPairs: 2 })
    const ids = Array.from({ length: 12 }, (_, i) => `r${i}`)
    for (const id of ids) await client.submit({ id, query: 'cats', documents: DOCUMENTS })
    for (const id of ids.slice(0, 3)) expect(await client.cancel(id)).toBe(true)
    const places = DOCUMENTS.map((text, i) => ({ id: `d${i}`, text }))
    for (const name of ['a', 'b', 'c', 'd']) await client.putCorpus(name, places)
    await stage().worker(spread)
    for (const corpus of ['a', 'b', 'c', 'd']) {
      const documents = { corpus, ids: places.map(({ id }) => id) }
      expect((await client.rerank({ query: 'cats', documents })).results).toHaveLength(4)
    }
    for (const id of ids.slice(3)) expect((await client.result(id)).results).toHaveLength(4)
    await until('all can be forgotten', async () => (await client.forget(ids)) > 0)
    expect(await client.workers()).toHaveLength(1)
    // A worker of one model and a client: on each primary no more connections than a fleet of one has.
    expect(await connectionsTo(cluster)).toBeLessThanOrEqual(3 * (4 + 2))
  })
})

describe('what is no cluster, or not meant as one', () => {
  it('is refused with the right way to write it', async () => {
    const cluster = await OwnCluster.start(ownRedis)
    const [node] = cluster.nodes
    const single = new Stage()
    try {
      const owner = await cluster.ownerOf(single.prefix)
      const wrong = cluster.nodes.slice(0, 3).find((one) => one !== owner) ?? node
      const plain = single.client({ redis: wrong?.url ?? '' })
      await expect(plain.workers()).rejects.toMatchObject({
        code: 'redis_misconfigured',
        message: expect.stringContaining('redis+cluster://'),
      })
      const bare = single.client({ redis: cluster.url, prefix: 'rankmill' })
      await expect(bare.workers()).rejects.toMatchObject({
        code: 'invalid_configuration',
        message: expect.stringContaining('{rankmill}'),
      })
      const own = await ownRedis()
      const no = single.client({ redis: own.url.replace('redis:', 'redis+cluster:') })
      await expect(no.workers()).rejects.toMatchObject({
        code: 'redis_misconfigured',
        message: expect.stringContaining('without +cluster'),
      })
    } finally {
      await single.end()
    }
  })
})
