/**
 * How many bulk jobs a worker holds: enough that its sessions never wait for pairs, and few, because what it holds is
 * what a crash does twice and what other workers cannot take.
 */

/** What the batchers hold. */
export interface Load {
  readonly pairsWaiting: number
  /** Pairs of one full batch in every session. */
  readonly roundPairs: number
}

/** Of two jobs one can end, and the next be fetched, while the other feeds the model. */
const LEAST = 2
/** Full batches for each session: one runs, one is prepared, and two to four more are ready. */
const ROUNDS_WANTED = 4
const ROUNDS_ENOUGH = 6

export class Appetite {
  readonly #most: number
  #jobs: number

  /** @param most jobs at once, whatever their size */
  constructor(most: number) {
    this.#most = most
    this.#jobs = Math.min(LEAST, most)
  }

  /** Jobs to hold now. */
  get jobs(): number {
    return this.#jobs
  }

  /**
   * To be told whenever a job has ended: one more where too little was ready although every slot was in use, one less
   * where there is plenty without it. So it follows the size of the jobs, scores known already, and the time that
   * loading takes.
   *
   * @param held jobs in hand, with the one that ended
   * @param load what is left without it
   */
  ended(held: number, { pairsWaiting, roundPairs }: Load): void {
    if (pairsWaiting < ROUNDS_WANTED * roundPairs && held >= this.#jobs)
      this.#jobs = Math.min(this.#jobs + 1, this.#most)
    else if (pairsWaiting >= ROUNDS_ENOUGH * roundPairs)
      this.#jobs = Math.max(this.#jobs - 1, Math.min(LEAST, this.#most))
  }
}
