/** The OpenAPI document: made from the routes' own schemas. */
import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { jsonSchemaTransform } from 'fastify-type-provider-zod'
import { ownVersion } from './routes/system.js'

/** To be called before the routes are added. */
export async function describeApi(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Rankmill',
        version: ownVersion(),
        description:
          'Reranking through a durable queue, in the words of the clients that people have. See docs/api.md.',
      },
      components: {
        securitySchemes: { key: { type: 'http', scheme: 'bearer', description: '`rankmill keys create`' } },
      },
      security: [{ key: [] }, {}],
      tags: [
        { name: 'rerank', description: 'One request, waited for' },
        { name: 'jobs', description: 'One request, asynchronously' },
        { name: 'files', description: 'Input and output of batches, as OpenAI has them' },
        { name: 'batches', description: 'Files of requests, as OpenAI has them' },
        { name: 'corpora', description: 'Passages stored once' },
        { name: 'webhooks', description: 'Events that were not taken' },
        { name: 'system', description: 'Health and models' },
      ],
    },
    transform: jsonSchemaTransform,
  })
}
