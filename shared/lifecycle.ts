/** Closing in a fixed order, and what signals do. */
import { setMaxListeners } from 'node:events'

export interface ClosingStep {
  readonly name: string
  readonly close: () => unknown
}

/**
 * Runs every step in order, each despite errors in the one before.
 *
 * @returns the errors, by the step that threw them
 */
export async function closeAll(steps: readonly ClosingStep[]): Promise<{ name: string; error: unknown }[]> {
  const failed: { name: string; error: unknown }[] = []
  for (const { name, close } of steps) {
    try {
      await close()
    } catch (error) {
      failed.push({ name, error })
    }
  }
  return failed
}

/** Waits for a promise, at most so long; false when the time ran out first. */
export async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  try {
    return await Promise.race([promise.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Aborts a controller when a signal aborts. Unlike AbortSignal.any, which leaves a trace on the signals that it follows
 * for as long as they live, nothing is left once the returned function was called.
 */
export function follow(signal: AbortSignal, controller: AbortController): () => void {
  const stop = () => controller.abort(signal.reason)
  // As many listeners as there are waits is no leak: each goes with its wait.
  setMaxListeners(0, signal)
  if (signal.aborted) stop()
  else signal.addEventListener('abort', stop, { once: true })
  return () => signal.removeEventListener('abort', stop)
}

/**
 * First SIGINT or SIGTERM: `stop`. Second: `force`, which should not return.
 *
 * @returns a function that takes the handlers away again
 */
export function onSignals(stop: (signal: NodeJS.Signals) => void, force: (signal: NodeJS.Signals) => void): () => void {
  let stopping = false
  const handle = (signal: NodeJS.Signals) => {
    if (stopping) return force(signal)
    stopping = true
    stop(signal)
  }
  process.on('SIGINT', handle)
  process.on('SIGTERM', handle)
  return () => {
    process.off('SIGINT', handle)
    process.off('SIGTERM', handle)
  }
}
