/** Rankmill as its users run it: a client, a Redis of its own, and a worker process; every pair goes through the queue. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { findOrStartRedis } from '../../cli/embedded/redis.js'
import { RerankClient } from '../../producer/client.js'
import { type Options, resolveOptions } from '../../shared/options.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import { answerLines, peerArguments } from './peer-lines.js'

const { folder, threads, more } = peerArguments()
const prefix = `{bench-peers-${more[0]}}`

if (process.send) {
  const dtype = more[0] as Options['dtype']
  const options = resolveOptions({
    ...{ model: `peer=${folder}`, dtype, threads, prefix },
    ...{ scoreCacheTtlMs: 0, metricsPort: 0, logLevel: 'error' },
  })
  const worker = await RerankWorker.start(options, modelSource(options))
  process.send('ready')
  process.on('disconnect', () => void worker.close(true).then(() => process.exit(0)))
} else {
  const env = { PATH: process.env['PATH'] }
  const redis = await findOrStartRedis({ dataDir: `.rankmill/peers/redis-${more[0]}`, log: () => undefined, env })
  const worker = fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
    env: { ...process.env, RANKMILL_REDIS: redis.url },
  })
  await once(worker, 'message')
  const client = new RerankClient({ redis: redis.url, prefix, model: 'peer' })
  await answerLines(async (lists) => {
    const scores: number[][] = []
    await Promise.all(
      lists.map(async ({ query, documents }, i) => {
        const { results } = await client.rerank({ query, documents })
        const own: number[] = []
        for (const { index, relevance_score } of results) own[index] = relevance_score
        scores[i] = own
      }),
    )
    return scores.flat()
  })
  await client.close()
  worker.disconnect()
  await redis.stop()
}
