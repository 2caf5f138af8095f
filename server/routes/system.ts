/** What is served about the server itself: health, metrics, models, the OpenAPI document and its page. */
import { createReadStream, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Health } from '../../monitoring/server.js'
import { RankmillError } from '../../shared/errors.js'
import type { ModelNames } from '../model-names.js'
import type { RerankCalls } from '../rerank-calls.js'
import { errorReplies } from './rerank.js'

export interface SystemSources {
  readonly contentType: string
  metrics(): Promise<string>
  alive(): Health
  ready(): Promise<Health>
}

const modelSchema = z.looseObject({
  id: z.string(),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
})
const healthSchema = z.object({ ok: z.boolean(), checks: z.record(z.string(), z.string()) })
/** Models have no time of birth here; clients want a number. */
const CREATED = 0
const SWAGGER_UI = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
const SWAGGER_FILES: Readonly<Record<string, string>> = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
}
const DOCS_PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rankmill API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body><main id="docs"></main><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
`
const DOCS_SCRIPT = `SwaggerUIBundle({ url: '/openapi.json', dom_id: '#docs', deepLinking: true, persistAuthorization: false, validatorUrl: null })\n`

export function systemRoutes(
  app: FastifyInstance,
  sources: SystemSources,
  calls: RerankCalls,
  models: ModelNames,
): void {
  const open = { scope: null } as const

  app.get(
    '/healthz',
    {
      config: open,
      schema: { tags: ['system'], summary: 'Liveness', response: { 200: healthSchema, 503: healthSchema } },
    },
    async (_request, reply) => {
      const health = sources.alive()
      return reply.code(health.ok ? 200 : 503).send(health)
    },
  )
  app.get('/health', { config: open, schema: { hide: true } }, async (_request, reply) => {
    const health = sources.alive()
    return reply.code(health.ok ? 200 : 503).send(health)
  })
  app.get(
    '/readyz',
    {
      config: open,
      schema: { tags: ['system'], summary: 'Readiness', response: { 200: healthSchema, 503: healthSchema } },
    },
    async (_request, reply) => {
      const health = await sources.ready()
      return reply.code(health.ok ? 200 : 503).send(health)
    },
  )
  app.get('/metrics', { config: { scope: 'admin' }, schema: { hide: true } }, async (_request, reply) =>
    reply.type(sources.contentType).send(await sources.metrics()),
  )

  app.get(
    '/v1/models',
    {
      config: { scope: 'read' },
      schema: {
        tags: ['system'],
        summary: 'Models that workers serve',
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async () => ({ object: 'list', data: (await modelList(calls, models)).map(modelOf) }),
  )
  app.get('/v1/models/*', { config: { scope: 'read' }, schema: { hide: true } }, async (request) => {
    const { '*': name = '' } = request.params as { '*'?: string }
    if ((await modelList(calls, models)).includes(name)) return modelOf(name)
    throw new RankmillError('not_found', `no worker serves a model "${name.slice(0, 200)}"`, { param: 'model' })
  })
  // Some clients put the version into the base URL, some do not.
  app.get('/models', { config: { scope: 'read' }, schema: { hide: true } }, async () => ({
    object: 'list',
    data: (await modelList(calls, models)).map(modelOf),
  }))

  app.get('/openapi.json', { config: open, schema: { hide: true } }, async () => app.swagger())
  app.get('/docs', { config: open, schema: { hide: true } }, async (_request, reply) =>
    reply.type('text/html; charset=utf-8').send(DOCS_PAGE),
  )
  app.get('/docs/start.js', { config: open, schema: { hide: true } }, async (_request, reply) =>
    reply.type('text/javascript; charset=utf-8').send(DOCS_SCRIPT),
  )
  for (const [file, type] of Object.entries(SWAGGER_FILES)) {
    app.get(`/docs/${file}`, { config: open, schema: { hide: true } }, async (_request, reply) =>
      reply
        .type(type)
        .header('cache-control', 'public, max-age=86400')
        .send(createReadStream(join(SWAGGER_UI, file))),
    )
  }
}

/** The default model first, other names for models last. */
async function modelList(calls: RerankCalls, models: ModelNames): Promise<string[]> {
  return [...new Set([...(await calls.servedModels()), ...models.names])]
}

function modelOf(id: string): z.output<typeof modelSchema> {
  return { id, object: 'model', created: CREATED, owned_by: 'rankmill' }
}

/** The version of this package. */
export function ownVersion(): string {
  const path = createRequire(import.meta.url).resolve('rankmill/package.json')
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version
}
