/** Rankmill on a primary that sentinels name: what happens when they make another one of its replica. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openBatch } from '../../producer/batch/batch-file.js'
import { freePort, kill, type OwnRedis, useOwnRedis } from './own-redis.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const ownRedis = useOwnRedis()
const LINES = 200
const SENTINELS = 3
/** As docs/redis.md has them. */
const RIGHTS = ['+sentinel|get-master-addr-by-name', '+sentinel|sentinels']

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-sentinel-'))
})
afterEach(() => rm(folder, { recursive: true }))

interface Watched {
  readonly url: string
  readonly primary: OwnRedis
  readonly replica: OwnRedis
  readonly sentinels: readonly OwnRedis[]
}

/** A primary, its replica, and three sentinels that watch them. */
async function watched(): Promise<Watched> {
  const primary = await ownRedis()
  const replica = await ownRedis(['--replicaof', '127.0.0.1', String(primary.port)])
  await until('the replica has caught up', async () =>
    /master_link_status:up/.test(await replica.admin.info('replication')),
  )
  const sentinels: OwnRedis[] = []
  for (let i = 0; i < SENTINELS; i++) {
    const port = await freePort()
    const file = join(folder, `sentinel-${i}.conf`)
    await writeFile(
      file,
      [
        `sentinel monitor mymaster 127.0.0.1 ${primary.port} 2`,
        'sentinel down-after-milliseconds mymaster 500',
        'sentinel failover-timeout mymaster 3000',
      ].join('\n'),
    )
    sentinels.push(await ownRedis([file, '--sentinel'], port))
  }
  for (const { admin } of sentinels) {
    await until('the sentinels know each other and the replica', async () => {
      const info = String(await admin.call('INFO', 'sentinel'))
      return /status=ok.*slaves=1,sentinels=3/.test(info)
    })
  }
  const hosts = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')
  return { url: `redis+sentinel://${hosts}/mymaster`, primary, replica, sentinels }
}

describe('a primary named by sentinels', () => {
  it('may die in the middle of a batch, whose output is the same byte for byte', async () => {
    const { url: redis, primary, replica, sentinels } = await watched()
    const input = join(folder, 'in.jsonl')
    const output = join(folder, 'out.jsonl')
    const lines = Array.from({ length: LINES }, (_, i) =>
      JSON.stringify({
        custom_id: `request-${i}`,
        body: { query: `query ${i}`, documents: Array.from({ length: 5 }, (_, k) => `passage ${k} of request ${i}`) },
      }),
    )
    await writeFile(input, `${lines.join('\n')}\n`)
    const outputLines = async () => (await readFile(output, 'utf8')).trimEnd().split('\n').sort()
    const steady = { redis, lockMs: 2000, scoreCacheTtlMs: 0 }
    await stage().worker({ ...steady, queue: 'undisturbed' })
    const undisturbed = await openBatch({ input, output })
    await undisturbed.run(stage().client({ redis, queue: 'undisturbed' }))
    const expected = await outputLines()

    await stage().worker(steady)
    const run = await openBatch({ input, output, overwrite: true, options: { resubmitMs: 1000 } })
    const running = run.run(stage().client({ redis, attempts: 20 }))
    await until('some lines are written', () => run.progress().requests > 10)
    // One sentinel dies with the primary.
    await Promise.all([kill(primary.process), kill((sentinels[0] as OwnRedis).process)])
    const before = run.progress().requests
    expect(before).toBeLessThan(LINES)
    await until('the replica took over', async () => /role:master/.test(await replica.admin.info('replication')))
    expect(await running).toMatchObject({ status: 'finished', totals: { requests: LINES, failed: 0 } })
    expect(await outputLines()).toEqual(expected)
  })

  it('is waited for by calls during an ordered failover', async () => {
    const { url: redis, replica, sentinels } = await watched()
    const client = stage().client({ redis })
    await stage().worker({ redis, lockMs: 2000 })
    await client.rerank({ query: 'cats', documents: ['a', 'b'] })
    await sentinels[1]?.admin.call('SENTINEL', 'FAILOVER', 'mymaster')
    const role = async () => /role:master/.test(await replica.admin.info('replication'))
    let n = 0
    do {
      const result = await client.rerank({ query: `query ${n++}`, documents: ['a', 'b'] }).catch((error) => {
        // What was under way on the connection that ended may have been carried out, or not.
        expect(error).toMatchObject({ code: expect.stringMatching(/^redis_(unavailable|read_only)$/) })
      })
      if (result) expect(result.results).toHaveLength(2)
    } while (!(await role()))
    await until('calls are answered by the new primary', async () => {
      const result = await client.rerank({ query: `query ${n++}`, documents: ['a', 'b'] }).catch(() => undefined)
      return result !== undefined
    })
    expect((await client.workers()).length).toBe(1)
  })

  it('is told apart: no sentinel answers, none knows the name, one wants a password', async () => {
    const { url, sentinels } = await watched()
    const unknown = stage().client({ redis: url.replace('mymaster', 'other') })
    await expect(unknown.workers()).rejects.toMatchObject({
      code: 'redis_misconfigured',
      message: expect.stringContaining('"other"'),
    })
    for (const { admin } of sentinels) {
      await admin.acl('SETUSER', 'finder', 'on', '>secret', '-@all', ...RIGHTS)
      await admin.acl('SETUSER', 'default', 'resetpass')
    }
    await expect(stage().client({ redis: url }).workers()).rejects.toMatchObject({ code: 'redis_denied' })
    const named = stage().client({ redis: `${url}?sentinelUsername=finder&sentinelPassword=secret` })
    expect(await named.workers()).toEqual([])
    const nobody = stage().client({ redis: `redis+sentinel://127.0.0.1:${await freePort()}/mymaster` })
    await expect(nobody.workers()).rejects.toMatchObject({ code: 'redis_unavailable' })
  })
})
