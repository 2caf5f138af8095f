/** `rankmill bench` with a tiny model. */
import { expect, it } from 'vitest'
import { runCommand } from './command.js'
import { TINY_MODEL } from './stage.js'

const bench = (...flags: string[]) => runCommand(['bench', '--ms', '20', '--threads', '2', ...flags], '.', {})

it('measures each format in each shape, and marks the fastest of each length', async () => {
  const { code, stdout, stderr } = await bench(
    '--models',
    TINY_MODEL,
    '--dtypes',
    'fp32,int8',
    '--tokens',
    '16,32',
    '--json',
  )
  expect(stderr).toContain('measuring')
  expect(code).toBe(0)
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  for (const dtype of ['fp32', 'int8']) {
    for (const tokens of [16, 32]) {
      const own = rows.filter((row) => row.dtype === dtype && row.tokens === tokens)
      expect(new Set(own.map(({ sessions }) => sessions))).toEqual(new Set([2, 1]))
      expect(new Set(own.map(({ pairsPerCall }) => pairsPerCall)).size).toBeGreaterThan(2)
      const [best, ...more] = own.filter((row) => row.best)
      expect(more).toEqual([])
      for (const row of own) {
        expect(row.pairsPerSecond).toBeGreaterThan(0)
        expect(row.pairsPerSecond).toBeLessThanOrEqual(best.pairsPerSecond)
        expect(row.tokensPerSecond).toBeCloseTo(row.pairsPerSecond * tokens, 6)
        expect(row.sessions * row.threadsPerSession).toBeLessThanOrEqual(2)
      }
    }
  }
})

it('measures only the shape that options fix, in a table', async () => {
  const flags = ['--models', TINY_MODEL, '--dtypes', 'fp32', '--sessions', '1', '--batch-pairs', '4']
  const { code, stdout } = await bench(...flags)
  expect(code).toBe(0)
  expect(stdout.match(/fp32/g)).toHaveLength(1)
  expect(stdout).toMatch(/→.*fp32 .* 4 /)
})

it('refuses what it cannot measure', async () => {
  const unknown = await bench('--models', '/no/such/model')
  expect(unknown.code).toBe(2)
  expect(unknown.stderr).toContain('unknown_model')
  const format = await bench('--models', TINY_MODEL, '--dtypes', 'int2')
  expect(format.code).toBe(2)
  expect(format.stderr).toContain('dtypes: must be of')
  expect((await bench('--tokens', '1')).code).toBe(2)
})
