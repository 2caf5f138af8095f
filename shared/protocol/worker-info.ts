/** A model as a worker has it loaded: enough to tell whether two scores came from the same. */
export interface LoadedModel {
  readonly name: string
  readonly dtype: string
  /** Hash of everything that its scores depend on. */
  readonly fingerprint: string
}

/** A pool that a worker takes jobs of. */
export interface ServedPool {
  readonly name: string
  /** Jobs ended since the heartbeat before, a second. */
  readonly jobsPerSecond: number
}

/** What a worker says of itself with every heartbeat. */
export interface WorkerInfo {
  readonly id: string
  readonly host: string
  readonly pid: number
  /** Names that requests may use, the default first. */
  readonly models: readonly string[]
  /** Bi-encoders that prefilters may name. */
  readonly filters: readonly string[]
  /** Those that it has loaded so far. */
  readonly loaded: readonly LoadedModel[]
  /** Score spaces that its loaded models score in. */
  readonly spaces: readonly string[]
  readonly pools: readonly ServedPool[]
  /** What its locks on jobs begin with; workers before 0.2.0 do not say. */
  readonly lockers?: readonly string[]
  /** http://host:port of its metrics; '' where it serves none. */
  readonly metricsUrl: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  /** It finishes what it holds and takes no more. */
  readonly draining: boolean
  /** Jobs ended since the heartbeat before, a second. */
  readonly jobsPerSecond: number
  /** Bulk jobs that it holds at once to keep its sessions fed; it follows the size of the jobs. */
  readonly appetite: number
}

/** Workers as they say of themselves in each of a fleet's shards, as one list: what they do is added up. */
export function mergeWorkers(ofShards: readonly (readonly WorkerInfo[])[]): WorkerInfo[] {
  const merged = new Map<string, WorkerInfo>()
  for (const info of ofShards.flat()) {
    const before = merged.get(info.id)
    merged.set(info.id, before ? together(before, info) : info)
  }
  return [...merged.values()]
}

function together(a: WorkerInfo, b: WorkerInfo): WorkerInfo {
  const rates = new Map<string, number>()
  for (const { name, jobsPerSecond } of [...a.pools, ...b.pools]) {
    rates.set(name, (rates.get(name) ?? 0) + jobsPerSecond)
  }
  return {
    ...a,
    pools: Array.from(rates, ([name, jobsPerSecond]) => ({ name, jobsPerSecond })),
    lockers: [...(a.lockers ?? []), ...(b.lockers ?? [])],
    jobsPerSecond: a.jobsPerSecond + b.jobsPerSecond,
    appetite: a.appetite + b.appetite,
  }
}
