/** Passages stored once, that requests name: JSON lines in, as a stream. */
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { RerankClient } from '../../producer/client.js'
import type { Passage } from '../../producer/corpora/passage-lines.js'
import { readLines } from '../../producer/lines/line-reader.js'
import type { CorpusInfo } from '../../shared/corpus/corpora.js'
import { checkCorpusName } from '../../shared/corpus/corpus-name.js'
import type { CorpusShelves } from '../../shared/corpus/corpus-shelves.js'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { reaching } from '../../shared/redis/connection.js'
import { callerGone } from '../caller-gone.js'
import { invalid } from '../dialects/fields.js'
import type { Caller } from '../keys/caller.js'
import { toldOnly } from '../told-only.js'
import { typedRoutes } from '../typed-routes.js'
import { errorReplies } from './rerank.js'

/** JSON escapes a byte as six at most; beside the text there may be other fields. */
const LINE_FACTOR = 6
const LINE_REST = 1_000_000
const nameParams = z.object({ name: z.string().min(1).meta({ pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$' }) })
/** Told of only: the simplest lines. */
const linesSchema = z.string().meta({ pattern: '^(\\{"id":"[a-z0-9]{1,20}","text":"[a-z ]{0,80}"\\}\\n){1,9}$' })
const putQuery = z.object({
  replace: z.enum(['true', 'false']).optional().describe('true: the lines become the whole corpus'),
})
const corpusSchema = z.looseObject({
  name: z.string(),
  object: z.literal('corpus'),
  passages: z.int(),
  version: z.string(),
})

export interface CorpusParts {
  /** Of the shards that the fleet has just now. */
  readonly corpora: () => Promise<CorpusShelves>
  readonly client: RerankClient
  readonly options: Options
}

export function corpusRoutes(app: FastifyInstance, { corpora, client, options }: CorpusParts): void {
  for (const type of [
    'application/x-ndjson',
    'application/jsonl',
    'application/jsonlines',
    'application/octet-stream',
  ]) {
    app.addContentTypeParser(type, async (_request: FastifyRequest, payload: Readable) => payload)
  }
  const typed = typedRoutes(app)
  const tags = ['corpora']

  typed.put(
    '/v1/corpora/:name',
    {
      config: { longBody: true },
      schema: {
        tags,
        summary: 'Store passages: JSON lines {"id", "text"}, as application/octet-stream or x-ndjson',
        consumes: ['application/octet-stream'],
        params: nameParams,
        querystring: putQuery,
        body: toldOnly(linesSchema),
        response: { 200: corpusSchema, ...errorReplies },
      },
    },
    async (request, reply) => {
      const own = ownName(request.caller, request.params.name)
      const lines: unknown = request.body
      if (!(lines instanceof Readable)) {
        throw new RankmillError('unsupported_media_type', 'Content-Type: must be application/x-ndjson')
      }
      const passages = passagesIn(lines, options.maxDocumentBytes)
      const replace = request.query.replace === 'true'
      const info = await client.putCorpus(own, passages, { replace, signal: callerGone(reply) })
      return corpusObject(info, request.caller)
    },
  )

  typed.get(
    '/v1/corpora',
    {
      config: { scope: 'read' },
      schema: { tags, summary: 'Corpora, by name', response: { 200: z.looseObject({}), ...errorReplies } },
    },
    async (request) => {
      const { caller } = request
      const all = await reaching(async () => (await corpora()).list())
      return {
        object: 'list',
        data: all
          .filter(({ name }) => caller.publicCorpus(name) !== undefined)
          .map((info) => corpusObject(info, caller)),
      }
    },
  )

  typed.get(
    '/v1/corpora/:name',
    {
      config: { scope: 'read' },
      schema: { tags, summary: 'A corpus', params: nameParams, response: { 200: corpusSchema, ...errorReplies } },
    },
    async (request) => {
      const own = ownName(request.caller, request.params.name)
      return corpusObject(await reaching(async () => (await corpora()).of(own).info(own)), request.caller)
    },
  )

  typed.delete(
    '/v1/corpora/:name',
    {
      schema: {
        tags,
        summary: 'Remove a corpus',
        params: nameParams,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const { name } = request.params
      const own = ownName(request.caller, name)
      await reaching(async () => (await corpora()).of(own).remove(own))
      return { name, object: 'corpus', deleted: true }
    },
  )
}

function ownName(caller: Caller, name: string): string {
  checkCorpusName(name)
  return caller.ownCorpus(name)
}

/** @throws RankmillError `invalid_request`, naming the line */
async function* passagesIn(body: AsyncIterable<Buffer>, maxDocumentBytes: number): AsyncGenerator<Passage> {
  const maxLineBytes = maxDocumentBytes * LINE_FACTOR + LINE_REST
  for await (const { number, bytes, length } of readLines(body, maxLineBytes)) {
    if (!bytes) throw invalid(`line ${number}`, `must have at most ${maxLineBytes} bytes, got ${length}`)
    const text = bytes.toString()
    if (text.trim() === '') continue
    yield { ...passageIn(text, number), source: `line ${number}` }
  }
}

function passageIn(text: string, number: number): Passage {
  let value: Record<string, unknown>
  try {
    value = Object(JSON.parse(text))
  } catch (error) {
    throw invalid(`line ${number}`, `not JSON: ${(error as Error).message.slice(0, 200)}`)
  }
  const id = value['id'] ?? value['_id']
  const title = value['title']
  const body = value['text']
  if (typeof id !== 'string') throw invalid(`line ${number}.id`, 'must be a string')
  if (typeof body !== 'string') throw invalid(`line ${number}.text`, 'must be a string')
  return { id, text: typeof title === 'string' && title !== '' ? `${title} ${body}` : body }
}

function corpusObject(info: CorpusInfo, caller: Caller): object {
  return {
    name: caller.publicCorpus(info.name) ?? info.name,
    object: 'corpus',
    passages: info.passages,
    version: info.version,
    versions: info.versions,
    bytes: info.bytes,
    updated_at: Math.floor(info.updatedAt / 1000),
  }
}
