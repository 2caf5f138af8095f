import { expect, it } from 'vitest'
import { bytesText, countArgument, withinArgument } from '../../../cli/amounts.js'

it('reads counts as people write them, and no others', () => {
  const counts = { '250000': 250_000, '250k': 250_000, '10M': 10_000_000, '2.5m': 2_500_000, '1e6': 1e6, '1_000': 1000 }
  for (const [text, count] of Object.entries(counts)) expect(countArgument(text)).toBe(count)
  for (const text of ['', '0', '-5', '10x', 'M', '1e', '1e400', '10 M pairs'])
    expect(() => countArgument(text)).toThrow()
})

it('reads times with their unit, and moments to come', () => {
  expect(withinArgument('8h')).toBe(28_800)
  expect(withinArgument('1h 30m')).toBe(5400)
  expect(withinArgument('1h30m')).toBe(5400)
  expect(withinArgument('2d')).toBe(172_800)
  const soon = new Date(Date.now() + 3_600_000).toISOString()
  expect(withinArgument(soon)).toBeGreaterThan(3590)
  for (const text of ['', '8', 'h', '-1h', '0s', '2001-01-01', '2027-99-99'])
    expect(() => withinArgument(text)).toThrow()
})

it('writes bytes with the unit that fits', () => {
  expect([0, 999, 1500, 134_217_728, 2.5e9].map(bytesText)).toEqual(['0 B', '999 B', '1.5 kB', '134 MB', '2.5 GB'])
})
