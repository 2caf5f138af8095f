import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { identityOf, isAlive, isHere, isKnownDead, ownIdentity } from '../../../shared/process-identity.js'

const OUTSIDE = 'pid:[4026531836]'

describe('a process', () => {
  it('is known to have ended when it has, and only then', async () => {
    const child = spawn('sleep', ['600'])
    const identity = identityOf(child.pid!)
    expect([isHere(identity), isKnownDead(identity)]).toEqual([true, false])
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect([isAlive(child.pid!), isKnownDead(identity)]).toEqual([false, true])
  })

  it.runIf(existsSync('/proc/self/stat'))('is not a later one with its number', () => {
    expect(isKnownDead({ ...ownIdentity(), born: `${ownIdentity().born}0` })).toBe(true)
    expect(isKnownDead({ ...ownIdentity(), host: 'renamed' })).toBe(false)
  })

  it.runIf(existsSync('/proc/self/ns/pid'))('of another container or machine is not known, even under our name', () => {
    const own = ownIdentity()
    for (const other of [
      { ...own, pids: 'pid:[1]', pid: 999_999_999 },
      { ...own, pids: 'pid:[1]', born: 'other/1' },
      { ...own, host: 'other', pids: OUTSIDE, born: 'other/1' },
    ])
      expect([isHere(other), isKnownDead(other)]).toEqual([false, false])
  })

  it('told by an earlier version is of this place where the host is', () => {
    const { pids, ...earlier } = ownIdentity()
    expect(isKnownDead(earlier)).toBe(false)
    expect(isKnownDead({ ...earlier, host: 'other', pid: 999_999_999 })).toBe(false)
    expect(isKnownDead({ ...earlier, pid: 999_999_999 })).toBe(true)
  })
})
