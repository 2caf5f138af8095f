/** What a process and all that it started have used, from /proc; Linux only. */
import { readdirSync, readFileSync } from 'node:fs'

/** `getconf CLK_TCK` of every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

export interface TreeUse {
  /** User and system, of those that live and of their children that ended. */
  readonly cpuSeconds: number
  /** Highest of each, together. */
  readonly peakBytes: number
}

export function treeUse(root: number): TreeUse {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    const stat = pid > 0 ? statOf(pid) : undefined
    if (stat) parents.set(pid, Number(stat[1]))
  }
  const within = (pid: number): boolean => pid === root || (parents.has(pid) && within(parents.get(pid) ?? 0))
  let [ticks, peakBytes] = [0, 0]
  for (const pid of parents.keys()) {
    if (!within(pid)) continue
    const stat = statOf(pid)
    if (!stat) continue
    for (const field of stat.slice(11, 15)) ticks += Number(field)
    peakBytes += 1024 * Number(/VmHWM:\s+(\d+)/.exec(read(`/proc/${pid}/status`))?.[1] ?? 0)
  }
  return { cpuSeconds: ticks / TICKS_PER_SECOND, peakBytes }
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
