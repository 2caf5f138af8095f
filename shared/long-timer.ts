/** Node's timers fire at once when they are set beyond 2^31 - 1 ms (24.8 days); deadlines may be longer. */
const MAX_TIMER_MS = 2 ** 31 - 1

/**
 * Calls back after any time, Infinity included.
 *
 * @returns stops it
 */
export function afterMs(ms: number, run: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const arm = (left: number) => {
    const step = Math.min(left, MAX_TIMER_MS)
    timer = setTimeout(() => (left > step ? arm(left - step) : run()), step)
  }
  arm(ms)
  return () => clearTimeout(timer)
}
