/** The HTTP side of every route: bodies in, errors out, who asks, what is logged. Routes add themselves. */
import { isUtf8 } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import * as zlib from 'node:zlib'
import compress from '@fastify/compress'
import helmet from '@fastify/helmet'
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { RankmillError } from '../shared/errors.js'
import type { Logger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { TRACE_PARENT } from '../shared/protocol/request.js'
import { reaching } from '../shared/redis/connection.js'
import { decodedBody } from './body-encoding.js'
import { clientErrors } from './client-errors.js'
import { type Dialect, errorBody } from './dialects/dialect.js'
import { checked } from './dialects/fields.js'
import type { HttpMetrics } from './http-metrics.js'
import type { Scope } from './keys/api-keys.js'
import type { Authentication } from './keys/authentication.js'
import { Caller } from './keys/caller.js'
import { KnownHosts } from './known-hosts.js'
import { KnownRoutes } from './known-routes.js'
import { isToldOnly } from './told-only.js'
import { UnusedConnections } from './unused-connections.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What a key needs for it; null: nobody is asked for one. Default: submit. */
    scope?: Scope | null
    /** In which errors are said. */
    dialect?: Dialect
    /** The body may take longer than `bodyTimeoutMs`. */
    longBody?: boolean
  }
  interface FastifyInstance {
    /** Aborted when the server begins to close: streams without end stop. */
    closingSignal: AbortSignal
    /** Ends the connections that nobody waits on. */
    closeIdle(): void
    /** For what lasts: whether the caller's key is still good. @throws RankmillError `unauthorized` */
    checkCaller(request: FastifyRequest): Promise<void>
  }
  interface FastifyRequest {
    caller: Caller
    /** Pairs that it asked for, for the log. */
    pairs: number
    /** Of the caller's trace, where it sent a good one. */
    traceParent: string | undefined
  }
}

export interface AppParts {
  readonly options: Options
  readonly authentication: Authentication
  readonly metrics: HttpMetrics
  readonly log: Logger
}

const REQUEST_ID = /^[\w.:-]{1,128}$/
/** A caller that is slower than this with its headers is none. */
const HEADERS_TIMEOUT_MS = 15_000
/** Longer than load balancers keep theirs, so that none meets a closed connection. */
const KEEP_ALIVE_MS = 75_000
const CONNECTIONS_CHECKED_MS = 1000
/** Files may take long; what is not one has `bodyTimeoutMs`. */
const LONGEST_BODY_MS = 6 * 3_600_000
const COMPRESSED_FROM_BYTES = 1024
/** Of fastify's own errors, those that a caller can cause. */
const FASTIFY_ERRORS: Readonly<Record<string, 'body_too_large' | 'unsupported_media_type'>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'body_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_INVALID_TYPE: 'unsupported_media_type',
  FST_REQ_FILE_TOO_LARGE: 'body_too_large',
  FST_INVALID_MULTIPART_CONTENT_TYPE: 'unsupported_media_type',
}

export async function makeApp({ options, authentication, metrics, log }: AppParts): Promise<FastifyInstance> {
  const unused = new UnusedConnections(KEEP_ALIVE_MS - HEADERS_TIMEOUT_MS)
  const app = Fastify({
    logger: false,
    bodyLimit: options.maxBodyBytes,
    requestIdHeader: false,
    genReqId: ({ headers }) => {
      const given = headers['x-request-id']
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : `req_${randomBytes(12).toString('hex')}`
    },
    routerOptions: { maxParamLength: 2048 },
    keepAliveTimeout: KEEP_ALIVE_MS,
    requestTimeout: LONGEST_BODY_MS,
    // Who waits is answered; the server's own limit ends what takes too long.
    forceCloseConnections: 'idle',
    http: { headersTimeout: HEADERS_TIMEOUT_MS, connectionsCheckingInterval: CONNECTIONS_CHECKED_MS },
    clientErrorHandler: clientErrors(unused),
    frameworkErrors: (error, request, reply) => void sendError(error, request, reply),
  })
  unused.watch(app.server)
  app.decorate('closeIdle', () => {
    app.server.closeIdleConnections()
    unused.close()
  })
  const known = new KnownRoutes()
  const hosts = new KnownHosts(options, authentication.isOpen)
  const closing = new AbortController()
  app.decorate('closingSignal', closing.signal)
  app.addHook('preClose', async () => closing.abort())
  app.decorateRequest('caller', null as unknown as Caller)
  app.decorateRequest('pairs', 0)
  app.decorateRequest('traceParent', undefined)
  app.decorate('checkCaller', async ({ headers }: FastifyRequest) => {
    await authentication.callerOf(headers.authorization)
  })
  app.setValidatorCompiler(({ schema }) => (value) => {
    if (isToldOnly(schema)) return { value }
    try {
      return { value: checked(schema as never, value) }
    } catch (error) {
      return { error: error as Error }
    }
  })
  app.setSerializerCompiler(() => (value) => JSON.stringify(value))
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (_request: FastifyRequest, body: Buffer) =>
    parseJson(body),
  )

  await app.register(helmet, {
    contentSecurityPolicy: {
      directives: {
        defaultSrc: ["'self'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'", "'unsafe-inline'"],
        imgSrc: ["'self'", 'data:'],
        fontSrc: ["'self'", 'data:'],
        frameAncestors: ["'none'"],
        // The server speaks HTTP; TLS is the proxy's in front of it.
        upgradeInsecureRequests: null,
      },
    },
    strictTransportSecurity: false,
  })
  await app.register(compress, {
    // Node 20 has no Zstandard of its own.
    encodings: 'createZstdCompress' in zlib ? ['zstd', 'gzip', 'deflate'] : ['gzip', 'deflate'],
    threshold: COMPRESSED_FROM_BYTES,
    globalDecompression: false,
  })

  app.addHook('onRoute', (route) => known.add(route.method, route.url, route.config?.dialect))
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
    const traceParent = String(request.headers.traceparent ?? '')
    if (TRACE_PARENT.test(traceParent)) request.traceParent = traceParent
    hosts.check(request.headers)
    const scope = request.routeOptions.config.scope
    request.caller = scope === null ? new Caller() : await authentication.callerOf(request.headers.authorization)
    if (scope !== null) request.caller.mustHave(scope ?? 'submit')
    if (!request.routeOptions.config.longBody) boundBody(request, options.bodyTimeoutMs)
  })
  app.addHook('preParsing', async (request, _reply, payload) =>
    decodedBody(request.headers['content-encoding'], payload),
  )
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? '(none)'
    metrics.observe(request.method, route, reply.statusCode, reply.elapsedTime)
    if (request.routeOptions.config.scope === null) return
    const trace = request.traceParent && TRACE_PARENT.exec(request.traceParent)?.[1]
    log.info(
      {
        request: request.id,
        method: request.method,
        route,
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
        caller: request.caller?.owner,
        ...(request.pairs > 0 ? { pairs: request.pairs } : {}),
        ...(trace ? { trace } : {}),
      },
      'request',
    )
  })
  const noRoute = (request: FastifyRequest, reply: FastifyReply) => {
    const path = request.url.split('?')[0] ?? ''
    const methods = known.methodsOf(path)
    // A route of its own may find nothing under a path that it takes.
    if (methods.length === 0 || methods.includes(request.method)) {
      return sendError(new RankmillError('not_found', `there is no route ${request.method} ${path}`), request, reply)
    }
    reply.header('allow', methods.join(', '))
    const message = `${request.method}: ${path} takes ${methods.join(', ')}`
    return sendError(new RankmillError('method_not_allowed', message), request, reply, undefined, known.dialectOf(path))
  }
  // Where there is no route, that is what is wrong, whatever was wrong with the body.
  app.setErrorHandler((error, request, reply) =>
    request.is404 && !(error instanceof RankmillError)
      ? noRoute(request, reply)
      : sendError(error, request, reply, log),
  )
  app.setNotFoundHandler(noRoute)
  return app
}

/** Deep and broken JSON are both just an error; keys that could reach a prototype are refused by the schemas. */
function parseJson(body: Buffer): unknown {
  if (body.length === 0) return undefined
  if (!isUtf8(body)) throw new RankmillError('invalid_request', 'body: not UTF-8', { param: 'body' })
  try {
    return JSON.parse(body.toString())
  } catch (error) {
    throw new RankmillError('invalid_request', `body: not JSON: ${(error as Error).message.slice(0, 200)}`, {
      param: 'body',
    })
  }
}

/** A body that dribbles in keeps a connection and memory: it has its time, then the connection ends. */
function boundBody(request: FastifyRequest, ms: number): void {
  const { raw } = request
  if (raw.complete || raw.headers['content-length'] === '0') return
  if (raw.headers['content-length'] === undefined && raw.headers['transfer-encoding'] === undefined) return
  const timer = setTimeout(() => raw.destroy(), ms)
  const clear = () => clearTimeout(timer)
  raw.once('end', clear).once('close', clear)
}

async function sendError(
  cause: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  log?: Logger,
  dialect: Dialect | undefined = request.routeOptions?.config?.dialect,
): Promise<FastifyReply> {
  // What Redis threw, wherever it was asked, is told from a defect here.
  const error = asRankmillError(await reaching(() => Promise.reject(cause)).catch((known: unknown) => known))
  const shown = request.caller?.withPublicNames(error) ?? error
  if (error.status >= 500 && error.code === 'internal')
    log?.error({ err: cause, request: request.id }, 'request failed')
  const { retryAfterMs } = error.details
  if (error.status === 429 || retryAfterMs !== undefined) {
    reply.header('retry-after', String(Math.max(1, Math.ceil((retryAfterMs ?? 1000) / 1000))))
  }
  if (error.code === 'unauthorized') reply.header('www-authenticate', 'Bearer')
  const say = dialect?.error ?? errorBody
  return reply
    .code(error.status)
    .type('application/json')
    .send(JSON.stringify(say(shown, request.id, request.body)))
}

/** What a route or fastify threw, as an error with a code. Messages of unforeseen ones stay in the log. */
function asRankmillError(cause: unknown): RankmillError {
  if (cause instanceof RankmillError) return cause
  const { code = '', statusCode, message } = cause as FastifyError
  const known = FASTIFY_ERRORS[code]
  if (known) return new RankmillError(known, message)
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new RankmillError('invalid_request', message)
  }
  return new RankmillError('internal', 'the request could not be served', {}, { cause })
}
