/** Gets one request answered, through whatever happens to Redis and the workers in between. */
import { setTimeout as delay } from 'node:timers/promises'
import type { ErrorCode, RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import type { WorkerInfo } from '../../shared/protocol/worker-info.js'
import { redisError } from '../../shared/redis/redis-errors.js'
import { backoffMs, passes } from '../../shared/redis/until-passes.js'
import type { WaitOptions } from '../client.js'
import type { CorpusPins, PinningClient } from './corpus-pins.js'

/** What a run needs of a RerankClient. */
export interface BatchClient extends PinningClient {
  rerank(input: RerankInput, wait?: WaitOptions): Promise<RerankResult>
  /** Removes what Redis holds of requests that are done. */
  forget(ids: readonly string[]): Promise<unknown>
  /** The live workers. */
  workers(): Promise<readonly Pick<WorkerInfo, 'appetite' | 'loaded'>[]>
}

/** Not the request's fault, and not over before somebody corrects Redis or how it is used: no request would fare better. */
const REFUSED: ReadonlySet<ErrorCode> = new Set(['redis_denied', 'redis_misconfigured'])
/** Not answered yet, or forgotten by Redis: submitting the same id again changes nothing where nothing was lost. */
const UNANSWERED: ReadonlySet<ErrorCode> = new Set(['timeout', 'not_found', 'request_lost'])
const LONGEST_WAIT_MS = 600_000
/** Ends that another try can change, as when a worker died of a neighbour's document. */
const MORE_TRIES = 2

/** Whether an error is the end of the whole run, which can go on when Redis has been set right. */
export function endsRun(error: RankmillError): boolean {
  return REFUSED.has(error.code)
}

/**
 * @param onAway told each time that the queue cannot take the request, which is then tried again
 * @throws RankmillError that the request ended with; or the signal's reason
 */
export async function answerOf(
  client: BatchClient,
  request: RerankInput & { id: string },
  pins: CorpusPins,
  resubmitMs: number,
  signal: AbortSignal,
  onAway: (error: RankmillError) => void,
): Promise<RerankResult> {
  let waitMs = resubmitMs
  let tries = 0
  let failures = 0
  for (;;) {
    try {
      signal.throwIfAborted()
      const pinned = await pins.pin(client, request)
      // What is under way when the run stops is left to the workers: the next run asks for its result.
      return await client.rerank(pinned, { timeoutMs: waitMs, signal, leave: true })
    } catch (cause) {
      signal.throwIfAborted()
      const error = redisError(cause)
      // Not the request's fault, and over at some time: however long it takes, no request is spent on it.
      if (passes(error) || error.code === 'overloaded') {
        onAway(error)
        await delay(error.details.retryAfterMs ?? backoffMs(++failures), undefined, { signal })
        continue
      }
      failures = 0
      if (UNANSWERED.has(error.code)) waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2)
      else if (!error.retryable || error.code === 'deadline_exceeded' || ++tries > MORE_TRIES) throw error
    }
  }
}
