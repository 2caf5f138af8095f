/** The page for people at `/`, and what it shows of the fleet. Its files are served as they lie in server/page. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { FleetState, QueueState } from '../../monitoring/queue-collector.js'
import type { AnswerTimes } from '../answer-times.js'
import { errorReplies } from './rerank.js'

const PAGE = join(dirname(createRequire(import.meta.url).resolve('rankmill/package.json')), 'server', 'page')
const FILES: Readonly<Record<string, readonly [file: string, type: string]>> = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/page/page.css': ['page.css', 'text/css; charset=utf-8'],
  '/page/page.js': ['page.js', 'text/javascript; charset=utf-8'],
}

export function pageRoutes(app: FastifyInstance, fleet: () => Promise<FleetState>, times: AnswerTimes): void {
  for (const [url, [file, type]] of Object.entries(FILES)) {
    const content = readFileSync(join(PAGE, file))
    app.get(url, { config: { scope: null }, schema: { hide: true } }, async (_request, reply) =>
      reply.type(type).send(content),
    )
  }
  app.get(
    '/v1/status',
    {
      config: { scope: 'admin' },
      schema: {
        tags: ['system'],
        summary: 'Queues and workers just now',
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async () => {
      const { queues, workers, away } = await fleet()
      const { perSecond, p50, p95 } = times.pace()
      return {
        object: 'status',
        // Of this server alone, over the last minute.
        answers: { per_second: perSecond, p50_ms: p50, p95_ms: p95 },
        queues: queues.map(shown),
        workers: workers.map(({ id, models, startedAt, jobsPerSecond }) => ({
          id,
          models,
          started_at: Math.floor(startedAt / 1000),
          jobs_per_second: jobsPerSecond,
        })),
        // What is in these is in no number above.
        shards_away: away.map(({ index, error }) => ({ shard: index, error: error.toBody() })),
      }
    },
  )
}

function shown({ queue, model, lane, jobs, oldestWaitSeconds, secondsToDrain, workers }: QueueState) {
  return {
    name: queue,
    model,
    lane,
    waiting: jobs.waiting + jobs.prioritized + jobs.delayed,
    active: jobs.active,
    failed: jobs.failed,
    oldest_wait_seconds: oldestWaitSeconds,
    // JSON knows no infinity: nobody drains it.
    seconds_to_drain: Number.isFinite(secondsToDrain) ? secondsToDrain : null,
    workers,
  }
}
