/** Round numbers for axes. */
const ROUNDING = 1e-9

/** The next number up that is 1, 2, 2.5 or 5 times a power of ten. */
export function roundStep(atLeast: number): number {
  const power = 10 ** Math.floor(Math.log10(atLeast))
  return ([1, 2, 2.5, 5].find((factor) => factor * power >= atLeast * (1 - ROUNDING)) ?? 10) * power
}

/** Multiples of a round step from low to high, about so many. */
export function linearTicks(low: number, high: number, count: number): number[] {
  const step = roundStep((high - low) / count)
  const first = Math.ceil(low / step - ROUNDING)
  const last = Math.floor(high / step + ROUNDING)
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

/** 1, 2 and 5 times powers of ten from low to high, both above 0. */
export function logarithmicTicks(low: number, high: number): number[] {
  const ticks: number[] = []
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
    for (const factor of [1, 2, 5]) ticks.push(Number((factor * 10 ** power).toPrecision(12)))
  return ticks.filter((tick) => tick >= low * (1 - ROUNDING) && tick <= high * (1 + ROUNDING))
}
