import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

type Locked = <T>(file: string, work: () => Promise<T>, onWait: (pid: number) => void) => Promise<T>
const { locked } = (await import(pathToFileURL(resolve('scripts/lock.mjs')).href)) as { locked: Locked }

let folder: string
let file: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rankmill-lock-'))
  file = join(folder, 'lock')
})
afterEach(() => rmSync(folder, { recursive: true }))

/** What the lock says of its owner. */
function owner(): Promise<Record<string, unknown>> {
  return locked(
    file,
    async () => JSON.parse(readFileSync(file, 'utf8')),
    () => undefined,
  )
}

describe('the lock of what prepares a checkout', () => {
  it('is held by one at a time, and leaves nothing', async () => {
    let inside = 0
    let most = 0
    const waited: number[] = []
    const work = async () => {
      most = Math.max(most, ++inside)
      await new Promise((done) => setImmediate(done))
      inside--
    }
    await Promise.all(Array.from({ length: 5 }, () => locked(file, work, (pid) => waited.push(pid))))
    expect(most).toBe(1)
    expect(new Set(waited)).toEqual(new Set([process.pid]))
    expect(existsSync(file)).toBe(false)
  })

  it.runIf(existsSync('/proc/self/stat'))(
    'left by a killed process is free, though another has its number',
    async () => {
      writeFileSync(file, JSON.stringify({ ...(await owner()), born: '1' }))
      let waited = false
      await locked(
        file,
        async () => undefined,
        () => {
          waited = true
        },
      )
      expect(waited).toBe(false)
    },
  )

  it('of another container is free when that gives no sign of life', async () => {
    writeFileSync(file, JSON.stringify({ ...(await owner()), place: 'elsewhere', pid: 7 }))
    const waited: number[] = []
    await locked(
      file,
      async () => undefined,
      (pid) => waited.push(pid),
    )
    expect(waited).toEqual([7])
  })

  it('that says nothing anybody understands is free after a while as well', async () => {
    writeFileSync(file, '')
    await owner()
    expect(existsSync(file)).toBe(false)
  })
})
