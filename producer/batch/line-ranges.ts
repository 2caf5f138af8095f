/** Line numbers as ranges, both ends counted: as many as there are gaps, however many lines there are. */
export type LineRange = readonly [first: number, last: number]

/** Puts lines and ranges, in any order, into as few ranges as can be. */
export function mergedRanges(ranges: Iterable<LineRange>): LineRange[] {
  const merged: [number, number][] = []
  for (const [first, last] of [...ranges].sort(([a], [b]) => a - b)) {
    const before = merged.at(-1)
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last)
    else merged.push([first, last])
  }
  return merged
}
