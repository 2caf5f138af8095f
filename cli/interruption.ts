/** Ctrl-C for commands that run to an end: acknowledged at once in one line; twice, now. */
import { RankmillError } from '../shared/errors.js'
import { onSignals } from '../shared/lifecycle.js'
import { EXIT, note } from './exit.js'

/** Given to what is under way, so that it can end. */
export interface Interruption {
  /** Aborts at the first signal. */
  readonly signal: AbortSignal
  /** Aborts at the second: nothing is waited for any more. */
  readonly forced: AbortSignal
}

/** For children to give their jobs back, once they were told to. */
const FORCED_MS = 2000
/** What nobody closed (a download, a wait) must not keep an interrupted command. */
const LEFTOVER_MS = 1000

/**
 * Runs a command's work. What it throws after a signal is taken as its end.
 *
 * @param doing what the line says that Ctrl-C does: "stopping", "finishing what is under way"
 * @param code of an end that was asked for once
 * @throws what the work throws without a signal
 */
export async function interruptible(
  doing: string,
  work: (interruption: Interruption) => Promise<void>,
  code: number = EXIT.interrupted,
): Promise<void> {
  const stopping = new AbortController()
  const forcing = new AbortController()
  const reason = new RankmillError('cancelled', 'interrupted')
  const letGo = onSignals(
    () => {
      note(`rankmill: ${doing}; Ctrl-C again stops at once`)
      stopping.abort(reason)
    },
    () => {
      // A third one does not wait for the children either.
      if (forcing.signal.aborted) process.exit(EXIT.interrupted)
      forcing.abort(reason)
      setTimeout(() => process.exit(EXIT.interrupted), FORCED_MS)
    },
  )
  try {
    await work({ signal: stopping.signal, forced: forcing.signal })
  } catch (error) {
    if (!stopping.signal.aborted) throw error
  } finally {
    letGo()
    if (stopping.signal.aborted) {
      process.exitCode = code
      setTimeout(() => process.exit(code), LEFTOVER_MS).unref()
      if (forcing.signal.aborted) process.exit(EXIT.interrupted)
    }
  }
}

/**
 * What an opening gives, unless a signal aborts before; what comes too late is closed.
 *
 * @throws the signal's reason
 */
export async function unlessAborted<T>(
  opening: Promise<T>,
  signal: AbortSignal | undefined,
  close: (opened: T) => unknown,
): Promise<T> {
  if (!signal) return opening
  let onAbort: () => void = () => undefined
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason)
  })
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    signal.throwIfAborted()
    return await Promise.race([opening, aborted])
  } catch (error) {
    opening.then(close, () => undefined)
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
    aborted.catch(() => undefined)
  }
}
