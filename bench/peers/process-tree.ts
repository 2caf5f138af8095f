/** What a process and all that it started have used and hold, from /proc; Linux only. */
import { readdirSync, readFileSync } from 'node:fs'

/** `getconf CLK_TCK` of every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

export interface TreeUse {
  /** User and system, of those that live and of their children that ended. */
  readonly cpuSeconds: number
  /** Highest of each, together. */
  readonly peakBytes: number
}

/** Bytes of all processes together. */
export interface TreeMemory {
  /** Pages that several hold counted once, among all processes of the machine that hold them. */
  readonly pss: number
  /** Such pages counted for each that holds them. */
  readonly rss: number
  /** Without such pages. */
  readonly private: number
}

export function treeUse(root: number): TreeUse {
  let [ticks, peakBytes] = [0, 0]
  for (const pid of pidsOf(root)) {
    const stat = statOf(pid)
    if (!stat) continue
    for (const field of stat.slice(11, 15)) ticks += Number(field)
    peakBytes += 1024 * Number(/VmHWM:\s+(\d+)/.exec(read(`/proc/${pid}/status`))?.[1] ?? 0)
  }
  return { cpuSeconds: ticks / TICKS_PER_SECOND, peakBytes }
}

export function treeMemory(root: number): TreeMemory {
  const maps = pidsOf(root).map((pid) => read(`/proc/${pid}/smaps_rollup`))
  const sum = (...names: string[]) =>
    maps
      .flatMap((text) => names.map((name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)))
      .reduce((a, b) => a + b * 1024, 0)
  return { pss: sum('Pss'), rss: sum('Rss'), private: sum('Private_Clean', 'Private_Dirty') }
}

/** The process and all below it. */
function pidsOf(root: number): number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    const stat = pid > 0 ? statOf(pid) : undefined
    if (stat) parents.set(pid, Number(stat[1]))
  }
  const within = (pid: number): boolean => pid === root || (parents.has(pid) && within(parents.get(pid) ?? 0))
  return [...parents.keys()].filter(within)
}

/** Fields of /proc/PID/stat from the state on; the name before them may hold anything. */
function statOf(pid: number): string[] | undefined {
  const text = read(`/proc/${pid}/stat`)
  return text === '' ? undefined : text.slice(text.lastIndexOf(')') + 2).split(' ')
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
