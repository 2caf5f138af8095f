/** Amounts as people write and read them: 10M pairs, 8h, 1.2 GB. */
import { InvalidArgumentError } from 'commander'
import parseDuration from 'parse-duration'

const MULTIPLES: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9, b: 1e9 }

/** `10M`, `2.5k`, `1e6`, `1_000_000`. */
export function countArgument(value: string): number {
  const found = /^([\d_]+(?:\.\d+)?(?:e\d+)?)([kmgb]?)$/i.exec(value.trim())
  const count =
    found && Number(found[1]?.replaceAll('_', '')) * (MULTIPLES[found[2]?.toLowerCase() ?? ''] ?? Number.NaN)
  if (!count || !Number.isSafeInteger(Math.round(count)) || Math.round(count) < 1)
    throw new InvalidArgumentError('must be a number such as 250000, 250k or 10M')
  return Math.round(count)
}

/** `8h`, `1h 30m`, `45min`; or a moment to come, `2027-01-31T06:00`. @returns seconds from now */
export function withinArgument(value: string): number {
  const moment = /^\d{4}-\d\d-\d\d/.test(value) ? (Date.parse(value) - Date.now()) / 1000 : undefined
  // A number without a unit could be anything.
  const seconds = moment ?? (/[a-z]/i.test(value) ? parseDuration(value, 's') : undefined)
  if (!seconds || !Number.isFinite(seconds) || seconds < 1)
    throw new InvalidArgumentError(
      'must be a time such as 8h, 1h30m or 2d, or a moment to come such as 2027-01-31T06:00',
    )
  return seconds
}

/** Decimal: 1.2 GB. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3))
  const value = bytes / 1000 ** power
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${units[power]}`
}
