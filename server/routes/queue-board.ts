/** bull-board at `/queues`. It only looks: trying a failed job again takes more than moving it (`rankmill failed retry`). */
import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { FastifyAdapter } from '@bull-board/fastify'
import type { Queue } from 'bullmq'
import type { FastifyInstance } from 'fastify'

const BASE = '/queues'

export async function queueBoard(app: FastifyInstance, queues: readonly Queue[]): Promise<void> {
  const adapter = new FastifyAdapter()
  const shown = queues.map((queue) => new BullMQAdapter(queue as never, { readOnlyMode: true }))
  createBullBoard({ queues: shown, serverAdapter: adapter, options: { uiConfig: { boardTitle: 'Rankmill' } } })
  adapter.setBasePath(BASE)
  await app.register(
    async (scope) => {
      scope.addHook('onRoute', (route) => {
        route.config = { ...route.config, scope: 'admin' }
        route.schema = { ...route.schema, hide: true } as never
      })
      // Its page says in a script what it is configured with.
      await scope.register(adapter.registerPlugin())
    },
    { prefix: BASE },
  )
}
