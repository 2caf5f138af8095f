/** The page for people at `/`, and what it shows of the fleet. Its files are served as they lie in server/page. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { Queue } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { RerankClient } from '../../producer/client.js'
import { errorReplies } from './rerank.js'

const PAGE = join(dirname(createRequire(import.meta.url).resolve('rankmill/package.json')), 'server', 'page')
const FILES: Readonly<Record<string, readonly [file: string, type: string]>> = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/page/page.css': ['page.css', 'text/css; charset=utf-8'],
  '/page/page.js': ['page.js', 'text/javascript; charset=utf-8'],
}

export function pageRoutes(
  app: FastifyInstance,
  client: RerankClient,
  queues: readonly Pick<Queue, 'name' | 'getJobCounts'>[],
): void {
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
      const [workers, counted] = await Promise.all([client.workers(), Promise.all(queues.map(countsOf))])
      return {
        object: 'status',
        queues: counted,
        workers: workers.map(({ id, models, startedAt, jobsPerSecond }) => ({
          id,
          models,
          started_at: Math.floor(startedAt / 1000),
          jobs_per_second: jobsPerSecond,
        })),
      }
    },
  )
}

async function countsOf(queue: Pick<Queue, 'name' | 'getJobCounts'>) {
  const counts = await queue.getJobCounts('waiting', 'prioritized', 'active', 'delayed', 'failed')
  const { waiting = 0, prioritized = 0, active = 0, delayed = 0, failed = 0 } = counts
  return { name: queue.name, waiting: waiting + prioritized + delayed, active, failed }
}
