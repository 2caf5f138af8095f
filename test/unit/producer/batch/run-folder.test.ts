import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { RunFolder } from '../../../../producer/batch/run-folder.js'
import { ownIdentity } from '../../../../shared/process-identity.js'

const LEASE_MS = 60_000
let folder: string
let output: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-lease-'))
  output = join(folder, 'out.jsonl')
})
afterEach(async () => {
  vi.useRealTimers()
  await rm(folder, { recursive: true })
})

async function letExpire(lease: string): Promise<void> {
  const longAgo = new Date(Date.now() - 2 * LEASE_MS)
  await utimes(lease, longAgo, longAgo)
}

describe('the lease on an output', () => {
  it('is held by one runner at a time', async () => {
    const first = await RunFolder.claim(output, LEASE_MS)
    await expect(RunFolder.claim(output, LEASE_MS)).rejects.toMatchObject({ code: 'output_in_use' })
    await first.release()
    await (await RunFolder.claim(output, LEASE_MS)).release()
  })

  it('of two who claim it at once, one gets', async () => {
    const claims = await Promise.allSettled(Array.from({ length: 8 }, () => RunFolder.claim(output, LEASE_MS)))
    const got = claims.flatMap((claim) => (claim.status === 'fulfilled' ? claim.value : []))
    expect(got).toHaveLength(1)
    for (const claim of claims)
      if (claim.status === 'rejected') expect(claim.reason).toMatchObject({ code: 'output_in_use' })
    await got[0]?.release()
  })

  it('of a process that has ended is free at once', async () => {
    const first = await RunFolder.claim(output, LEASE_MS)
    await writeFile(first.own('lease'), JSON.stringify({ ...ownIdentity(), born: 'before this process' }))
    const second = await RunFolder.claim(output, LEASE_MS)
    await expect(first.check()).rejects.toMatchObject({ code: 'output_in_use' })
    await second.check()
    await second.release()
    await first.release()
  })

  it('of another machine is held until it expires', async () => {
    const first = await RunFolder.claim(output, LEASE_MS)
    await writeFile(first.own('lease'), JSON.stringify({ host: 'elsewhere', pid: 1, born: '' }))
    await expect(RunFolder.claim(output, LEASE_MS)).rejects.toMatchObject({ code: 'output_in_use' })
    await letExpire(first.own('lease'))
    await (await RunFolder.claim(output, LEASE_MS)).release()
    await first.release()
  })

  it.each([-3_600_000, 3_600_000])('runs out by the file system’s clock where a runner’s is %d ms off', async (ms) => {
    const elsewhere = JSON.stringify({ host: 'elsewhere', pid: 1, born: '' })
    const realNow = Date.now()
    vi.useFakeTimers({ toFake: ['Date'], now: realNow + ms })
    const first = await RunFolder.claim(output, LEASE_MS)
    await writeFile(first.own('lease'), elsewhere)
    await expect(RunFolder.claim(output, LEASE_MS)).rejects.toMatchObject({ code: 'output_in_use' })
    const longAgo = new Date(realNow - 2 * LEASE_MS)
    await utimes(first.own('lease'), longAgo, longAgo)
    await (await RunFolder.claim(output, LEASE_MS)).release()
    await first.release()
  })

  it('is renewed by the file system’s clock', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 3_600_000 })
    const first = await RunFolder.claim(output, 40)
    const { mtimeMs } = await stat(first.own('lease'))
    await vi.waitUntil(async () => (await stat(first.own('lease'))).mtimeMs > mtimeMs, 5000)
    expect(JSON.parse(await readFile(first.own('lease'), 'utf8'))).toEqual(ownIdentity())
    await first.release()
  })

  it('lost in sleep is noticed, and what the sleeper writes all the same touches nothing', async () => {
    const sleeper = await RunFolder.claim(output, LEASE_MS)
    await sleeper.replace('checkpoint', 'of the sleeper')
    await letExpire(sleeper.own('lease'))

    const next = await RunFolder.claim(output, LEASE_MS)
    expect(next.tookOver).toBe(true)
    expect(await readFile((await next.newest('checkpoint')) ?? '', 'utf8')).toBe('of the sleeper')
    await next.replace('checkpoint', 'of the next')
    await expect(sleeper.check()).rejects.toMatchObject({ code: 'output_in_use' })
    // As if it had checked just before it lost the claim:
    await sleeper.replace('checkpoint', 'late')

    expect(await readFile((await next.newest('checkpoint')) ?? '', 'utf8')).toBe('of the next')
    await next.forgetEarlier()
    await expect(stat(sleeper.own('checkpoint'))).rejects.toThrow('ENOENT')
    await next.release()
    await expect(sleeper.check()).rejects.toMatchObject({ code: 'output_in_use' })
    await sleeper.release()
  })

  it('that is given back before anything was written leaves all as it was, for a sleeper too', async () => {
    await (await RunFolder.claim(output, LEASE_MS)).release()
    expect(await readdir(folder)).toEqual([])

    const sleeper = await RunFolder.claim(output, LEASE_MS)
    await sleeper.replace('checkpoint', 'of the sleeper')
    await letExpire(sleeper.own('lease'))
    await (await RunFolder.claim(output, LEASE_MS)).release()
    await sleeper.check()
    // Numbers only grow: what has been written under one is never another's.
    const next = await RunFolder.claim(output, LEASE_MS)
    await next.replace('checkpoint', 'of the next')
    await next.release()
    const last = await RunFolder.claim(output, LEASE_MS)
    expect(last.number).toBeGreaterThan(next.number)
    await expect(sleeper.check()).rejects.toMatchObject({ code: 'output_in_use' })
    await last.release()
    await sleeper.release()
  })

  it('is lost with its folder, even where the next one has its number', async () => {
    const first = await RunFolder.claim(output, LEASE_MS)
    await rm(first.path, { recursive: true })
    await expect(first.check()).rejects.toMatchObject({ code: 'output_in_use' })
    const second = await RunFolder.claim(output, LEASE_MS)
    expect(second.number).toBe(first.number)
    await expect(first.check()).rejects.toMatchObject({ code: 'output_in_use' })
    await first.release()
    await second.check()
    await second.release()
  })

  it.each(['/proc', 'missing', 'a-file'])('cannot be had in %s', async (where) => {
    await writeFile(join(folder, 'a-file'), '')
    const nowhere = join(where === '/proc' ? where : join(folder, where), 'out.jsonl')
    await expect(RunFolder.claim(nowhere, LEASE_MS)).rejects.toMatchObject({
      code: 'output_unwritable',
      message: expect.stringContaining(nowhere),
    })
  })
})
