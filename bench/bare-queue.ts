/** What the queue below Rankmill can do with the same payload and no work: the bar that its own path is held against. */
import { Queue, Worker } from 'bullmq'
import { partOf } from '../producer/split.js'
import { resolveOptions } from '../shared/options.js'
import { candidateCount } from '../shared/protocol/documents.js'
import { parseRequest, type RerankInput, requestSchema } from '../shared/protocol/request.js'
import { connectWorker } from '../shared/redis/connection.js'

/** Pairs a second of the same jobs through BullMQ alone: addBulk in, an empty processor out. */
export async function bareQueue(url: string, requests: readonly RerankInput[]): Promise<number> {
  const target = { redis: url, prefix: '{bench-bare}' }
  const [forQueue, forWorker] = await Promise.all([connectWorker(target), connectWorker(target)])
  const queue = new Queue('bare', { connection: forQueue, prefix: target.prefix })
  const schema = requestSchema(resolveOptions({}, {}))
  const opened = {
    generation: 1,
    pool: 'rankmill-small',
    lane: 'interactive',
    parts: 1,
    submittedAt: 0,
    deadlineAt: null,
  } as const
  const jobs = requests.map((input, i) =>
    partOf(
      parseRequest(input, schema, () => `bare-${process.hrtime.bigint()}-${i}`),
      opened,
      0,
    ),
  )
  let done = 0
  const worker = new Worker('bare', async () => void done++, {
    connection: forWorker,
    prefix: target.prefix,
    concurrency: 64,
    removeOnComplete: { count: 0 },
  })
  const finished = new Promise<void>((resolve) => worker.on('completed', () => done === jobs.length && resolve()))
  const startedAt = performance.now()
  for (let i = 0; i < jobs.length; i += 32)
    await queue.addBulk(jobs.slice(i, i + 32).map((data) => ({ name: 'bare', data })))
  await finished
  const pairs = jobs.reduce((sum, job) => sum + candidateCount(job.documents), 0)
  const rate = pairs / ((performance.now() - startedAt) / 1000)
  await worker.close()
  await queue.obliterate({ force: true })
  await queue.close()
  forQueue.disconnect()
  forWorker.disconnect()
  return rate
}
