/**
 * A fleet as a network of queues, event by event: one producer that keeps a window of requests open, Redis' shards, each a
 * single thread, and workers with one host thread and some inference sessions. What a station takes for a request is given,
 * measured elsewhere; what is simulated is who waits for whom.
 */
import TinyQueue from 'tinyqueue'

/** Seconds of one core, or of one session, that a request takes. */
export interface ServiceTimes {
  /** Of the producer, submitting and reading the result together. */
  readonly producer: number
  /** Of Redis, for all of its commands together. */
  readonly redis: number
  /** Of a worker's own thread. */
  readonly host: number
  /** Of an inference session, for each pair. */
  readonly pair: number
  /** Of the network, each way between a process and Redis; nobody is busy with it. */
  readonly network: number
}

export interface SimulatedFleet {
  readonly workers: number
  readonly sessionsPerWorker: number
  /** Pairs in one model call. */
  readonly pairsPerCall: number
  /** Requests that a worker has in hand at most. */
  readonly requestsInHand: number
  readonly shards: number
  /** Producer processes, each with a window of its own. */
  readonly producers: number
}

export interface SimulatedLoad {
  readonly requests: number
  readonly pairsPerRequest: number
  /** Requests that a producer keeps open. */
  readonly window: number
}

export interface SimulationResult {
  readonly pairsPerSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** Share of the time that a station of each kind was busy, on average over them. */
  readonly busy: { readonly producer: number; readonly redis: number; readonly host: number; readonly sessions: number }
}

interface Timer {
  readonly at: number
  readonly then: () => void
}

/** Simulated seconds, and what happens next. */
class Clock {
  now = 0
  readonly #timers = new TinyQueue<Timer>([], (a, b) => a.at - b.at)

  after(seconds: number, then: () => void): void {
    this.#timers.push({ at: this.now + seconds, then })
  }

  run(): void {
    for (let next = this.#timers.pop(); next; next = this.#timers.pop()) {
      this.now = next.at
      next.then()
    }
  }
}

interface Visit {
  readonly seconds: number
  readonly then: () => void
}

/** First come, first served, by as many servers as it has. */
class Station {
  readonly #clock: Clock
  readonly #servers: number
  readonly #waiting: Visit[] = []
  #next = 0
  #serving = 0
  #busySeconds = 0

  constructor(clock: Clock, servers = 1) {
    this.#clock = clock
    this.#servers = servers
  }

  serve(seconds: number, then: () => void): void {
    this.#waiting.push({ seconds, then })
    this.#start()
  }

  busyShare(): number {
    return this.#busySeconds / this.#servers / this.#clock.now
  }

  #start(): void {
    while (this.#serving < this.#servers && this.#next < this.#waiting.length) {
      const { seconds, then } = this.#waiting[this.#next++] as Visit
      if (this.#next === this.#waiting.length) this.#next = this.#waiting.length = 0
      this.#serving++
      this.#busySeconds += seconds
      this.#clock.after(seconds, () => {
        this.#serving--
        then()
        this.#start()
      })
    }
  }
}

/** One shard: its Redis, the jobs that wait in it, and the workers that would take one. */
class Shard {
  readonly redis: Station
  readonly #waiting: Job[] = []
  readonly #idle: Worker[] = []

  constructor(clock: Clock) {
    this.redis = new Station(clock)
  }

  put(job: Job): void {
    const worker = this.#idle.shift()
    if (worker) worker.take(job)
    else this.#waiting.push(job)
  }

  ask(worker: Worker): void {
    const job = this.#waiting.shift()
    if (job) worker.take(job)
    else this.#idle.push(worker)
  }
}

interface Job {
  readonly shard: Shard
  readonly end: () => void
}

interface Worker {
  take(job: Job): void
}

export function simulateFleet(fleet: SimulatedFleet, times: ServiceTimes, load: SimulatedLoad): SimulationResult {
  const clock = new Clock()
  const shards = Array.from({ length: fleet.shards }, () => new Shard(clock))
  const hosts = Array.from({ length: fleet.workers }, () => new Station(clock))
  const sessions = hosts.map(() => new Station(clock, fleet.sessionsPerWorker))
  const producers = Array.from({ length: fleet.producers }, () => new Station(clock))
  const latencies: number[] = []
  let left = load.requests
  let placed = 0

  // Half of what Redis does for a request comes before a worker has it, half after.
  const halfRedis = times.redis / 2
  hosts.forEach((host, i) => {
    const inference = sessions[i] as Station
    const worker: Worker = {
      take: ({ shard, end }) => {
        clock.after(times.network, () =>
          host.serve(times.host, () => {
            let pairs = load.pairsPerRequest
            let calls = Math.ceil(pairs / fleet.pairsPerCall)
            for (; pairs > 0; pairs -= fleet.pairsPerCall) {
              inference.serve(Math.min(pairs, fleet.pairsPerCall) * times.pair, () => {
                if (--calls > 0) return
                clock.after(times.network, () =>
                  shard.redis.serve(halfRedis, () => {
                    shard.ask(worker)
                    end()
                  }),
                )
              })
            }
          }),
        )
      },
    }
    // A worker's hands are divided among the shards.
    for (let hand = 0; hand < Math.max(fleet.requestsInHand, fleet.shards); hand++)
      (shards[(i + hand) % fleet.shards] as Shard).ask(worker)
  })

  const submit = (producer: Station): void => {
    if (left === 0) return
    left--
    const shard = shards[placed++ % fleet.shards] as Shard
    producer.serve(times.producer / 2, () => {
      const startedAt = clock.now
      clock.after(times.network, () =>
        shard.redis.serve(halfRedis, () =>
          shard.put({
            shard,
            end: () =>
              clock.after(times.network, () =>
                producer.serve(times.producer / 2, () => {
                  latencies.push(clock.now - startedAt)
                  submit(producer)
                }),
              ),
          }),
        ),
      )
    })
  }
  for (const producer of producers) for (let i = 0; i < load.window; i++) submit(producer)
  clock.run()

  const sorted = latencies.sort((a, b) => a - b)
  const at = (share: number) => 1000 * (sorted[Math.ceil(sorted.length * share) - 1] ?? 0)
  const mean = (stations: readonly Station[]) =>
    stations.reduce((sum, station) => sum + station.busyShare(), 0) / stations.length
  return {
    pairsPerSecond: (load.requests * load.pairsPerRequest) / clock.now,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    busy: {
      producer: mean(producers),
      redis: mean(shards.map(({ redis }) => redis)),
      host: mean(hosts),
      sessions: mean(sessions),
    },
  }
}
