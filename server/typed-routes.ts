/** Routes whose parameters have the types of their schemas. Answers are as free as handlers like: tests look at them. */
import type { FastifyInstance, FastifyTypeProvider } from 'fastify'
import type { z } from 'zod'

export interface SchemaTypes extends FastifyTypeProvider {
  validator: this['schema'] extends z.ZodType ? z.output<this['schema']> : unknown
  serializer: unknown
}

export function typedRoutes(app: FastifyInstance) {
  return app.withTypeProvider<SchemaTypes>()
}
