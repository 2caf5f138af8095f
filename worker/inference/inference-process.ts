/**
 * Entry of an inference process: one session, batches in, logits out, in the order they came. A process and not a thread,
 * because a call that crashes or does not end can then be ended without everything else.
 */
import { Worker } from 'node:worker_threads'
import { RankmillError } from '../../shared/errors.js'
import type { Batch } from './engine.js'
import { unpackBatch } from './packed-batch.js'
import { isDeviceLost, ScoringSession } from './session.js'
import type { FromProcess, SessionData, ToProcess } from './session-protocol.js'

/** How often it is looked whether the parent lives: a call blocks the loop that would be told. */
const PARENT_MS = 500
const WATCH_PARENT = `
  const parent = process.ppid
  setInterval(() => process.ppid === parent || process.kill(process.pid, 'SIGKILL'), ${PARENT_MS})
`

// The parent decides when this ends: Ctrl-C reaches the whole group.
process.on('SIGINT', () => undefined)
process.on('SIGTERM', () => undefined)
process.on('disconnect', () => process.exit(0))
new Worker(WATCH_PARENT, { eval: true, name: 'parent watch' }).unref()

let session: Promise<ScoringSession> | undefined
// A chain, because a batch that arrives while one runs must not start before it has ended.
let last: Promise<void> = Promise.resolve()

process.on('message', (message: ToProcess) => {
  if (message === 'close') last = last.then(close)
  else if ('open' in message) last = open(message.open)
  else last = last.then(() => score(message.id, unpackBatch(message.batch)))
})

async function open(data: SessionData): Promise<void> {
  session = ScoringSession.open(data)
  await session.then(
    (opened) => send({ type: 'ready', causal: opened.abilities, keptTokens: opened.keptTokens }),
    (cause) => send({ type: 'unusable', error: RankmillError.from(cause).toBody() }),
  )
}

async function score(id: number, batch: Batch): Promise<void> {
  const opened = await session
  const startedAt = performance.now()
  try {
    if (!opened) throw new RankmillError('internal', 'a batch came before its model')
    const scored = await opened.run(batch)
    send({ type: 'scored', id, output: { ...scored, inferenceMs: performance.now() - startedAt } })
  } catch (cause) {
    const error = RankmillError.from(cause)
    // The parent starts another process, which may find the device again; this one never will.
    if (isDeviceLost(error.message)) send({ type: 'unusable', error: error.toBody() })
    else send({ type: 'failed', id, error: error.toBody() })
  }
}

async function close(): Promise<void> {
  await session?.then((opened) => opened.release()).catch(() => undefined)
  process.disconnect()
}

function send(message: FromProcess): void {
  // To a parent that was killed: there is nobody left to tell, and the channel's end ends this process.
  process.send?.(message, undefined, undefined, () => undefined)
}
