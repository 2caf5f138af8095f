/** Entry of a thread that works on texts: tasks in, token ids and counts out, one after the other. */
import { parentPort, workerData } from 'node:worker_threads'
import { type ErrorBody, RankmillError } from '../../shared/errors.js'
import { loadTokenizer } from '../tokenize/tokenizer.js'
import type { TextTask } from './text-tasks.js'
import { TextWork } from './text-work.js'

/** Given to a thread when it starts. */
export interface TextThreadData {
  /** Of the caches' bounds: each thread has caches of its own. */
  readonly share: number
}

/** Main thread to text thread; `close` is the last. */
export type ToTextThread = { readonly id: number; readonly task: TextTask } | 'close'
/** Text thread to main thread; `ready` is the first. */
export type FromTextThread =
  | 'ready'
  | { readonly id: number; readonly output: object }
  | { readonly id: number; readonly error: ErrorBody }

const parent = parentPort
if (!parent) throw new Error('text-thread is the entry of a worker thread')
const port = parent
const work = new TextWork(loadTokenizer, (workerData as TextThreadData).share)
let last: Promise<void> = Promise.resolve()
port.postMessage('ready' satisfies FromTextThread)

port.on('message', (message: ToTextThread) => {
  if (message === 'close') return port.close()
  last = last.then(() => answer(message.id, message.task))
})

async function answer(id: number, task: TextTask): Promise<void> {
  try {
    const output: object = await work.run(task)
    const buffers = Object.values(output).flatMap((value) =>
      ArrayBuffer.isView(value) ? [value.buffer as ArrayBuffer] : [],
    )
    port.postMessage({ id, output } satisfies FromTextThread, buffers)
  } catch (cause) {
    port.postMessage({ id, error: RankmillError.from(cause).toBody() } satisfies FromTextThread)
  }
}
