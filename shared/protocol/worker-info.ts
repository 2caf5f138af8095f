/** A model as a worker has it loaded: enough to tell whether two scores came from the same. */
export interface LoadedModel {
  readonly name: string
  readonly dtype: string
  /** Hash of everything that its scores depend on. */
  readonly fingerprint: string
}

/** What a worker says of itself with every heartbeat. */
export interface WorkerInfo {
  readonly id: string
  readonly host: string
  readonly pid: number
  /** Names that requests may use, the default first. */
  readonly models: readonly string[]
  /** Those that it has loaded so far. */
  readonly loaded: readonly LoadedModel[]
  /** http://host:port of its metrics; '' where it serves none. */
  readonly metricsUrl: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  /** Jobs ended since the heartbeat before, a second. */
  readonly jobsPerSecond: number
  /** Bulk jobs that it holds at once to keep its sessions fed; it follows the size of the jobs. */
  readonly appetite: number
}
