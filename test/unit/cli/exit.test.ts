import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { describeError, EXIT, exitCodeOf } from '../../../cli/exit.js'
import { ERRORS, type ErrorCode, RankmillError } from '../../../shared/errors.js'

it('every error ends with the exit code that README.md and docs/errors.md say', () => {
  const sentence = /Exit codes: ([^;]+);/.exec(readFileSync('README.md', 'utf8'))?.[1] ?? ''
  const documented = sentence.match(/\b\d+\b/g)?.map(Number)
  expect(documented).toEqual(Object.values(EXIT))
  const page = readFileSync('docs/errors.md', 'utf8')
  const rows = [...page.matchAll(/^\| `(\w+)` \| \d+ \| (?:yes|no) \| (\d+) \|/gm)]
  expect(rows.map(([, code]) => code)).toEqual(Object.keys(ERRORS))
  for (const [, code, exit] of rows) {
    const expected = code?.startsWith('redis_') ? EXIT.redis : code === 'cancelled' ? EXIT.interrupted : undefined
    expect([code, exitCodeOf(new RankmillError(code as ErrorCode, ''))]).toEqual([code, Number(exit)])
    if (expected === undefined) expect([EXIT.failed, EXIT.usage]).toContain(Number(exit))
    else expect(Number(exit)).toBe(expected)
    // What the user has to mend, and what only another try or another machine can.
    if (/^(in|out)put_|^invalid_|^unknown_|^python_/.test(code ?? ''))
      expect([code, Number(exit)]).toEqual([code, EXIT.usage])
  }
})

it('takes a folder that cannot be written for no defect', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rankmill-'))
  writeFileSync(join(folder, 'file'), '')
  const error = await mkdir(join(folder, 'file', 'below'), { recursive: true }).catch((thrown) => thrown)
  expect(exitCodeOf(error)).toBe(EXIT.usage)
  expect(describeError(error)).toMatch(
    /^rankmill: output_unwritable: ENOTDIR: .*file.*\n {2}.*folder that you may write to/,
  )
  expect(describeError(error)).not.toMatch(/defect|\n {4}at /)
  rmSync(folder, { recursive: true })
})
