/**
 * Redis that fails for real under every public call: what comes out is an error of Rankmill with the right code, nothing in
 * it was sent to Redis, and the client works again when Redis does.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import type { RerankClient } from '../../producer/client.js'
import { type ErrorCode, RankmillError } from '../../shared/errors.js'
import { infoField } from '../../shared/redis/connection.js'
import { untilPasses } from '../../shared/redis/until-passes.js'
import { FaultyProxy } from './faulty-proxy.js'
import { freePort, kill, type OwnRedis, useOwnRedis } from './own-redis.js'
import { TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()

/** Every secret and every text has it. */
const CANARY = 'CANARY'
const request = { query: `${CANARY}-query`, documents: [`${CANARY}-document`, { id: 'b', text: `${CANARY}-text` }] }
const ACCOUNT = `${CANARY}-password`

const accountUrl = (port: number) => `redis://app:${ACCOUNT}@127.0.0.1:${port}`

async function withAccount(flags: readonly string[] = []): Promise<OwnRedis> {
  const redis = await ownRedis(flags)
  await redis.admin.acl('SETUSER', 'app', 'on', `>${ACCOUNT}`, '~*', '&*', '+@all')
  return { ...redis, url: accountUrl(redis.port) }
}

const CALLS: Readonly<Record<string, (client: RerankClient) => Promise<unknown>>> = {
  rerank: (client) => client.rerank(request, { timeoutMs: 300 }),
  submit: (client) => client.submit(request),
  result: (client) => client.result('known', { timeoutMs: 300 }),
  status: (client) => client.status('known'),
  cancel: (client) => client.cancel('known'),
  forget: (client) => client.forget(['known']),
  workers: (client) => client.workers(),
  putCorpus: (client) => client.putCorpus('corpus', [{ id: 'a', text: `${CANARY}-passage` }]),
  pinCorpus: (client) => client.pinCorpus('kept', `${CANARY}-holder`, 60_000),
  releaseCorpus: (client) => client.releaseCorpus('kept', 'nobody'),
  rerankAll: async (client) => {
    for await (const { error } of client.rerankAll([{ ...request, id: 'known' }])) if (error) throw error
  },
}

/** Where an error, and all that hangs on it, could show something. */
function shown(error: unknown): string {
  const everything = [inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true, maxStringLength: null })]
  for (let e = error; e instanceof Error; e = e.cause) {
    const fields = Object.fromEntries(
      Object.getOwnPropertyNames(e).map((name) => [name, Reflect.get(e as object, name)]),
    )
    everything.push(e.message, String(e.stack), JSON.stringify(e), JSON.stringify(fields))
  }
  return everything.join('\n')
}

/** Makes every public call and returns how each ended. */
async function outcomes(client: RerankClient): Promise<Record<string, ErrorCode | 'done'>> {
  const ended: Record<string, ErrorCode | 'done'> = {}
  for (const [name, call] of Object.entries(CALLS)) {
    const error = await call(client).then(
      () => undefined,
      (cause: unknown) => cause,
    )
    expect(shown(error), name).not.toContain(CANARY)
    if (error !== undefined) expect(error, `${name}: ${inspect(error)}`).toBeInstanceOf(RankmillError)
    ended[name] = error === undefined ? 'done' : (error as RankmillError).code
  }
  return ended
}

const WRITING = ['rerank', 'submit', 'putCorpus'] as const

/** A client that has been used, with a request and a corpus that are there. */
async function usedClient(url: string, commandTimeoutMs = 1000): Promise<RerankClient> {
  const client = stage().client({ redis: url, commandTimeoutMs })
  await client.submit({ ...request, id: 'known' })
  await client.putCorpus('kept', [{ id: 'a', text: `${CANARY}-passage` }])
  return client
}

async function isWellAgain(client: RerankClient): Promise<void> {
  let n = 0
  await untilPasses(() => client.submit({ ...request, id: `after-${n++}` }), { limitMs: 10_000 })
  await expect(client.workers()).resolves.toEqual([])
}

describe('every call, while Redis', () => {
  it('has no memory left', async () => {
    const { url, admin } = await withAccount()
    const client = await usedClient(url)
    await admin.config('SET', 'maxmemory', 1)
    const ended = await outcomes(client)
    for (const name of WRITING) expect(ended).toMatchObject({ [name]: 'redis_full' })
    await admin.config('SET', 'maxmemory', 0)
    await isWellAgain(client)
  })

  it('has become a replica', async () => {
    const { url, admin } = await withAccount()
    const client = await usedClient(url)
    await admin.replicaof('127.0.0.1', await freePort())
    const ended: string[] = []
    for (const name of WRITING) {
      // The first one that is refused opens the connection anew.
      const error = await (CALLS[name] as (c: RerankClient) => Promise<unknown>)(client).catch((e: unknown) => e)
      ended.push((error as RankmillError).code)
    }
    expect(ended[0]).toBe('redis_read_only')
    for (const code of ended) expect(['redis_read_only', 'redis_unavailable']).toContain(code)
    await outcomes(client)
    await expect(stage().client({ redis: url }).workers()).rejects.toMatchObject({ code: 'redis_read_only' })
    await admin.call('REPLICAOF', 'NO', 'ONE')
    await isWellAgain(client)
  })

  it('cannot write to its disk', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rankmill-misconf-'))
    const { url, admin } = await withAccount(['--dir', folder])
    const client = await usedClient(url)
    await admin.config('SET', 'save', '3600 1')
    // Not by taking rights away: tests may run as root, who needs none.
    await rm(folder, { recursive: true })
    await admin.bgsave()
    const saved = async () => infoField(await admin.info('persistence'), 'rdb_last_bgsave_status')
    await until('saving has failed', async () => (await saved()) === 'err')
    const ended = await outcomes(client)
    for (const name of WRITING) expect(ended).toMatchObject({ [name]: 'redis_read_only' })
    await admin.config('SET', 'save', '')
    await isWellAgain(client)
  })

  it('lets the user do less than it needs', async () => {
    const { url, admin } = await withAccount()
    const client = await usedClient(url)
    await admin.acl('SETUSER', 'app', '-@write', '-@scripting')
    const ended = await outcomes(client)
    for (const name of WRITING) expect(ended).toMatchObject({ [name]: 'redis_denied' })
    await expect(client.submit(request)).rejects.toThrow(/may not run EVALSHA/)
    await admin.acl('SETUSER', 'app', '+@all')
    await isWellAgain(client)
  })

  it('lacks a command', async () => {
    const { url } = await withAccount(['--rename-command', 'EVAL', 'hidden'])
    const ended = await outcomes(stage().client({ redis: url }))
    for (const name of WRITING) expect(ended).toMatchObject({ [name]: 'redis_misconfigured' })
  })

  it('is far away', async () => {
    const { port } = await withAccount()
    const proxy = await FaultyProxy.start(port)
    stage().onEnd(() => proxy.close())
    proxy.latencyMs = 30
    const client = await usedClient(accountUrl(proxy.port), 200)
    proxy.latencyMs = 250
    expect(await outcomes(client)).toMatchObject({ submit: 'redis_unavailable', status: 'redis_unavailable' })
    proxy.latencyMs = 0
    await isWellAgain(client)
  })

  it('knows another password by now', async () => {
    const { url, admin } = await withAccount()
    const client = await usedClient(url)
    await admin.acl('SETUSER', 'app', 'resetpass', '>another')
    await admin.call('CLIENT', 'KILL', 'USER', 'app')
    const ended = await outcomes(client)
    for (const code of Object.values(ended)) expect(['redis_denied', 'redis_unavailable']).toContain(code)
    expect(await outcomes(stage().client({ redis: url }))).toMatchObject({
      submit: 'redis_denied',
      status: 'redis_denied',
    })
    await admin.acl('SETUSER', 'app', `>${ACCOUNT}`)
    await isWellAgain(client)
  })

  it('runs a script that does not end', async () => {
    const { url, admin } = await withAccount(['--lua-time-limit', '20'])
    const client = await usedClient(url)
    const other = admin.duplicate({ maxRetriesPerRequest: 0, retryStrategy: () => null })
    stage().onEnd(() => other.disconnect())
    const running = other.eval('while true do end', 0).catch(() => undefined)
    await until('it is busy', async () =>
      admin.ping().then(
        () => false,
        (error) => /^BUSY/.test(error.message),
      ),
    )
    const ended = await outcomes(client)
    for (const code of Object.values(ended)) expect(code).toBe('redis_unavailable')
    await admin.script('KILL')
    await running
    await isWellAgain(client)
  })

  it('holds every command back, or drops every connection', async () => {
    const { url, admin } = await withAccount()
    const client = await usedClient(url, 200)
    await admin.client('PAUSE', 4000, 'ALL')
    const ended = await outcomes(client)
    expect(new Set(Object.values(ended))).toEqual(new Set(['redis_unavailable']))
    await isWellAgain(client)
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal')
    await outcomes(client)
    await isWellAgain(client)
  })

  it('is behind a network that goes silent, then resets', async () => {
    const { port } = await withAccount()
    const proxy = await FaultyProxy.start(port)
    stage().onEnd(() => proxy.close())
    const client = await usedClient(accountUrl(proxy.port), 200)
    for (const mode of ['stall', 'cut'] as const) {
      proxy.mode = mode
      const ended = await outcomes(client)
      expect(new Set(Object.values(ended))).toEqual(new Set(['redis_unavailable']))
      proxy.mode = 'pass'
      await isWellAgain(client)
    }
  })
})

it('what a worker logs while Redis fails holds nothing that was sent', async () => {
  const { url, admin } = await withAccount()
  const quick = ['--model', TINY_MODEL, '--threads', '1', '--sessions', '1', '--no-calibrate', '--metrics-port', '0']
  const worker = spawn(process.execPath, [resolve('dist/cli/main.js'), 'worker', ...quick, '--log-level', 'trace'], {
    env: { ...process.env, RANKMILL_REDIS: url, RANKMILL_PREFIX: stage().prefix, RANKMILL_LOCK_MS: '2000' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  stage().onEnd(() => kill(worker))
  let logged = ''
  for (const stream of [worker.stdout, worker.stderr]) stream.on('data', (data) => (logged += data))
  const client = stage().client({ redis: url.replace(/\/\/.*@/, '//') })
  await until('the worker is there', async () => (await client.workers()).length === 1)
  const faults: [() => Promise<unknown>, () => Promise<unknown>][] = [
    [() => admin.config('SET', 'maxmemory', 1), () => admin.config('SET', 'maxmemory', 0)],
    [() => admin.acl('SETUSER', 'app', '-@all'), () => admin.acl('SETUSER', 'app', '+@all')],
    [() => admin.replicaof('127.0.0.1', 1), () => admin.call('REPLICAOF', 'NO', 'ONE')],
    [
      async () => {
        await admin.acl('SETUSER', 'app', 'resetpass')
        await admin.call('CLIENT', 'KILL', 'USER', 'app')
      },
      () => admin.acl('SETUSER', 'app', `>${ACCOUNT}`),
    ],
  ]
  for (const [begin, end] of faults) {
    await Promise.all(Array.from({ length: 20 }, (_, i) => client.submit({ ...request, id: `${logged.length}-${i}` })))
    const before = logged.length
    await begin()
    await until('the worker says that something is wrong', () => logged.length > before)
    await end()
    await untilPasses(() => client.workers(), { limitMs: 10_000 })
  }
  expect(logged).not.toContain(CANARY)
})

it('the rights that docs/redis.md lists are enough for producers and workers', async () => {
  const redis = await ownRedis()
  const documented = /^ACL SETUSER rankmill (.*)$/m.exec(await readFile('docs/redis.md', 'utf8'))?.[1]?.split(' ') ?? []
  expect(documented.length).toBeGreaterThan(5)
  await redis.admin.acl('SETUSER', 'app', ...documented.map((rule) => (rule.startsWith('>') ? `>${ACCOUNT}` : rule)))
  const own = { redis: accountUrl(redis.port), prefix: '{rankmill}' }
  const client = stage().client(own)
  await client.putCorpus('corpus', [{ id: 'a', text: 'one' }])
  await client.pinCorpus('corpus', 'holder', 60_000)
  const cancelled = await client.submit({ ...request, id: 'unwanted' })
  await client.cancel(cancelled)
  await stage().worker(own)
  const texts = await client.rerank({ ...request, id: 'wanted' })
  const ids = await client.rerank({ query: 'q', documents: { corpus: 'corpus', ids: ['a'] }, priority: 600 })
  expect([texts.results.length, ids.results.length]).toEqual([2, 1])
  expect(await client.status('wanted')).toMatchObject({ state: 'completed' })
  expect(await client.workers()).toHaveLength(1)
  expect(await client.forget(['wanted'])).toBe(1)
  await client.releaseCorpus('corpus', 'holder')
  expect(await redis.admin.call('ACL', 'LOG')).toEqual([])
})

describe.skipIf(spawnSync('openssl', ['version']).status !== 0)('TLS', () => {
  it('of an unknown authority, or where the URL does not say so, is told', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'rankmill-tls-'))
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    const made = spawnSync(
      'openssl',
      `req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout ${key} -out ${cert}`.split(' '),
    )
    expect(made.status).toBe(0)
    const tlsPort = await freePort()
    await ownRedis([
      '--tls-port',
      String(tlsPort),
      '--tls-key-file',
      key,
      '--tls-cert-file',
      cert,
      '--tls-ca-cert-file',
      cert,
      '--tls-auth-clients',
      'no',
    ])
    const secure = stage().client({ redis: `rediss://127.0.0.1:${tlsPort}` })
    await expect(secure.workers()).rejects.toMatchObject({
      code: 'redis_misconfigured',
      message: expect.stringMatching(/SELF_SIGNED.*NODE_EXTRA_CA_CERTS/),
    })
    const bare = stage().client({ redis: `redis://127.0.0.1:${tlsPort}` })
    await expect(bare.workers()).rejects.toMatchObject({ code: 'redis_unavailable' })
    await rm(folder, { recursive: true })
  })
})

it('a Redis that is still loading is waited for', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'rankmill-loading-'))
  const slow = ['--dir', folder, '--loading-process-events-interval-bytes', '1024', '--key-load-delay', '4000']
  const first = await ownRedis(['--dir', folder])
  const pipeline = first.admin.pipeline()
  for (let i = 0; i < 300; i++) pipeline.set(`key-${i}`, 'x'.repeat(2000))
  await pipeline.exec()
  await first.admin.call('SAVE')
  await kill(first.process)
  const starting = ownRedis(slow, first.port)
  const waits: string[] = []
  const client = stage().client({ redis: first.url })
  const onWait = ({ code }: RankmillError) => waits.push(code)
  await untilPasses(() => client.submit(request), { limitMs: 20_000, onWait })
  expect(new Set(waits)).toEqual(new Set(['redis_unavailable']))
  await starting
  expect(waits.length).toBeGreaterThan(0)
  await rm(folder, { recursive: true })
})
