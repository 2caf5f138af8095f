import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { findUpNote, leaveUpNote } from '../../../shared/up-note.js'

const NOTE = { redis: 'redis://:secret@127.0.0.1:4711', prefix: '{p}', queue: 'q', isPrivate: true }
let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rankmill-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const notes = () => readdirSync(join(folder, '.rankmill/up'))
/** The note of another process, as it would be left by one that was killed. */
function leaveAs(pid: number, change: object = {}): void {
  const kept = JSON.parse(readFileSync(join(folder, '.rankmill/up', `${process.pid}.json`), 'utf8'))
  const other = { ...kept, process: { ...kept.process, pid, ...change }, since: kept.since + 1000 }
  writeFileSync(join(folder, '.rankmill/up', `${pid}.json`), JSON.stringify(other))
}

it('is found until it is taken away, and only its user can read it', () => {
  expect(findUpNote(folder)).toBeUndefined()
  const takeAway = leaveUpNote(NOTE, folder)
  expect(findUpNote(folder)).toEqual(NOTE)
  expect(statSync(join(folder, '.rankmill/up', `${process.pid}.json`)).mode & 0o777).toBe(0o600)
  takeAway()
  expect(findUpNote(folder)).toBeUndefined()
})

it('of a killed process, of a number that another process has now, of another machine, or damaged, is not taken', () => {
  const takeAway = leaveUpNote(NOTE, folder)
  const { pid: dead } = spawnSync(process.execPath, ['-e', ''])
  leaveAs(dead)
  leaveAs(process.ppid, { born: 'before' })
  leaveAs(1, { host: 'elsewhere', pids: 'pid:[1]' })
  writeFileSync(join(folder, '.rankmill/up/9.json'), '{"redis":')
  takeAway()
  expect(findUpNote(folder)).toBeUndefined()
  leaveUpNote(NOTE, folder)
  expect(findUpNote(folder)).toEqual(NOTE)
  expect(notes().sort()).toEqual(['1.json', `${process.pid}.json`].sort())
})
