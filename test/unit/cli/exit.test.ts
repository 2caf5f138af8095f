import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { describeError, EXIT, exitCodeOf } from '../../../cli/exit.js'
import { RankmillError } from '../../../shared/errors.js'

it.each([
  [EXIT.usage, ['invalid_request', 'invalid_configuration', 'unknown_model', 'output_exists', 'input_unreadable']],
  [EXIT.redis, ['redis_unavailable', 'redis_misconfigured', 'redis_full']],
  [EXIT.interrupted, ['cancelled']],
  [EXIT.someFailed, ['output_unwritable', 'inference_failed', 'not_found', 'internal', 'timeout']],
] as const)('%i is the exit code of %j', (exit, codes) => {
  expect(codes.map((code) => exitCodeOf(new RankmillError(code, '')))).toEqual(codes.map(() => exit))
})

it('takes a folder that cannot be written for no defect', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rankmill-'))
  writeFileSync(join(folder, 'file'), '')
  const error = await mkdir(join(folder, 'file', 'below'), { recursive: true }).catch((thrown) => thrown)
  expect(exitCodeOf(error)).toBe(EXIT.someFailed)
  expect(describeError(error)).toMatch(
    /^rankmill: output_unwritable: ENOTDIR: .*file.*\n {2}.*folder that you may write to/,
  )
  expect(describeError(error)).not.toMatch(/defect|\n {4}at /)
  rmSync(folder, { recursive: true })
})
