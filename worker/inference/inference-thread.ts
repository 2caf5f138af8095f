/** Entry of an inference thread: one session, batches in, logits out, in the order they came. */
import { parentPort, workerData } from 'node:worker_threads'
import { RankmillError } from '../../shared/errors.js'
import { type Batch, buffersOf } from './engine.js'
import { ScoringSession } from './session.js'
import type { FromThread, ThreadData, ToThread } from './thread-protocol.js'

const parent = parentPort
if (!parent) throw new Error('inference-thread is the entry of a worker thread')
const port = parent
const send = (message: FromThread) => port.postMessage(message)

async function score(session: ScoringSession, id: number, batch: Batch): Promise<void> {
  const startedAt = performance.now()
  try {
    const scored = await session.run(batch)
    const output = { ...scored, inferenceMs: performance.now() - startedAt }
    // States are large: they are handed over, not copied.
    port.postMessage({ type: 'scored', id, output } satisfies FromThread, buffersOf(output.states))
  } catch (cause) {
    send({ type: 'failed', id, error: RankmillError.from(cause).toBody() })
  }
}

try {
  const session = await ScoringSession.open(workerData as ThreadData)
  // A chain, because a batch that arrives while one runs must not start before it has ended.
  let last: Promise<void> = Promise.resolve()
  port.on('message', (message: ToThread) => {
    if (message === 'kill') process.exit(1)
    if (message === 'close') {
      void last.then(() => session.release()).finally(() => port.close())
    } else {
      last = last.then(() => score(session, message.id, message.batch))
    }
  })
  send({ type: 'ready' })
} catch (cause) {
  send({ type: 'unusable', error: RankmillError.from(cause).toBody() })
}
