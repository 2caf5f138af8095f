/** bull-board at `/queues`. It only looks: trying a failed job again takes more than moving it (`rankmill failed retry`). */
import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { FastifyAdapter } from '@bull-board/fastify'
import type { Queue } from 'bullmq'
import type { FastifyInstance } from 'fastify'

const BASE = '/queues'
/** Its page asks another host for a font, and has a fallback. */
const FOREIGN_STYLE = /\s*<link href="https?:[^>]*>/g

export interface BoardQueue {
  readonly queue: Queue
  /** Put before its name, which queues of several shards have in common. */
  readonly prefix: string
}

/** @param queues as they are whenever somebody looks: pools come and go */
export async function queueBoard(app: FastifyInstance, queues: () => Promise<readonly BoardQueue[]>): Promise<void> {
  const adapter = new FastifyAdapter()
  const options = { uiConfig: { boardTitle: 'Rankmill' } }
  const { replaceQueues } = createBullBoard({ queues: [], serverAdapter: adapter, options })
  const look = async () => {
    const found = await queues()
    replaceQueues(found.map(({ queue, prefix }) => new BullMQAdapter(queue as never, { readOnlyMode: true, prefix })))
  }
  adapter.setBasePath(BASE)
  await app.register(
    async (scope) => {
      scope.addHook('onRoute', (route) => {
        route.config = { ...route.config, scope: 'admin' }
        // The board's own says 500 of everything.
        route.errorHandler = app.errorHandler
        route.schema = { ...route.schema, hide: true } as never
      })
      scope.addHook('preHandler', look)
      scope.addHook('onSend', async (_request, _reply, payload) =>
        typeof payload === 'string' ? payload.replace(FOREIGN_STYLE, '') : payload,
      )
      // Its page says in a script what it is configured with.
      await scope.register(adapter.registerPlugin())
    },
    { prefix: BASE },
  )
}
