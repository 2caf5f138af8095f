/** Files as OpenAI has them: streamed to the storage as they come, and back. */
import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import type { BatchRecords } from '../batches/batch-records.js'
import { invalid } from '../dialects/fields.js'
import { type FileRecord, Files, fileObject } from '../files/files.js'
import { told, toldOnly } from '../told-only.js'
import { typedRoutes } from '../typed-routes.js'
import { pageOf } from './jobs.js'
import { errorReplies } from './rerank.js'

const MAX_FIELDS = 20
const MAX_FIELD_BYTES = 65_536
const MAX_NAME_CHARACTERS = 255
const DEFAULT_LIMIT = 1000
const SHORTEST_SECONDS = 3600
const idParams = z.object({ id: z.string().min(1) })
/** As a form; told of only. */
const uploadSchema = z.object({ file: z.string().meta({ format: 'binary' }), purpose: z.literal('batch') })
const fileSchema = z.looseObject({
  id: z.string(),
  object: z.literal('file'),
  bytes: z.int(),
  created_at: z.int(),
  filename: z.string(),
  purpose: z.string(),
})
const listQuery = z.object({
  limit: z.coerce.number().int().min(1).max(10_000).optional().describe('default: 1000'),
  after: z.string().optional().describe('the last id of the page before'),
  order: z.enum(['asc', 'desc']).optional().describe('by creation; default: desc'),
  purpose: z.enum(['batch', 'batch_output']).optional(),
})

export async function fileRoutes(
  app: FastifyInstance,
  files: Files,
  batches: BatchRecords,
  options: Options,
): Promise<void> {
  await app.register(multipart, {
    limits: { fileSize: options.maxFileBytes, files: 1, fields: MAX_FIELDS, fieldSize: MAX_FIELD_BYTES },
  })
  const typed = typedRoutes(app)
  const tags = ['files']

  typed.post(
    '/v1/files',
    {
      config: { longBody: true },
      schema: {
        tags,
        summary: 'Upload a file of requests (multipart: file, purpose "batch")',
        consumes: ['multipart/form-data'],
        body: toldOnly(uploadSchema),
        response: { 200: fileSchema, ...errorReplies },
      },
    },
    async (request) => {
      await files.checkRoom(request.caller.owner)
      return fileObject(await upload(request, files))
    },
  )

  typed.get(
    '/v1/files',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'Files, by creation',
        querystring: listQuery,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, after, order = 'desc', purpose } = request.query
      const { files: found, hasMore } = await files.list(request.caller.owner, limit, order, after)
      return pageOf(found.filter((file) => purpose === undefined || file.purpose === purpose).map(fileObject), hasMore)
    },
  )

  typed.get(
    '/v1/files/:id',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'What is known of a file',
        params: idParams,
        response: { 200: fileSchema, ...errorReplies },
      },
    },
    async (request) => fileObject(await files.find(request.caller.owner, request.params.id)),
  )

  typed.get(
    '/v1/files/:id/content',
    {
      config: { scope: 'read' },
      schema: {
        tags,
        summary: 'The content of a file',
        params: idParams,
        response: { 200: told('application/octet-stream', 'the content'), ...errorReplies },
      },
    },
    async (request, reply) => {
      const file = await files.find(request.caller.owner, request.params.id)
      const content = await files.storage.get(file.id)
      reply.type('application/octet-stream').header('content-length', file.bytes)
      return reply.send(content)
    },
  )

  typed.delete(
    '/v1/files/:id',
    {
      schema: {
        tags,
        summary: 'Delete a file',
        params: idParams,
        response: { 200: z.looseObject({}), ...errorReplies },
      },
    },
    async (request) => {
      const file = await files.find(request.caller.owner, request.params.id)
      if (await batches.uses(file.owner, file.id)) {
        const message = `id: file "${file.id}" is the input of a batch that has not ended: cancel it first`
        throw new RankmillError('conflict', message, { param: 'id' })
      }
      await files.remove(file)
      return { id: file.id, object: 'file', deleted: true }
    },
  )
}

/** The parts in the order that they come in: the content goes to the storage before the other fields may be known. */
async function upload(request: FastifyRequest, files: Files): Promise<FileRecord> {
  const fields = new Map<string, string>()
  const id = Files.newId()
  let stored: { bytes: number; filename: string } | undefined
  try {
    for await (const part of request.parts()) {
      if (part.type === 'field') {
        fields.set(part.fieldname, String(part.value))
        continue
      }
      if (part.fieldname !== 'file')
        throw invalid(part.fieldname, 'is no file that is expected: the content is called "file"')
      checkPurpose(fields.get('purpose') ?? 'batch')
      const filename = part.filename.replace(/^.*[/\\]/, '') || 'file'
      if (filename.length > MAX_NAME_CHARACTERS) {
        throw invalid('file', `its name must have at most ${MAX_NAME_CHARACTERS} characters, got ${filename.length}`)
      }
      stored = { bytes: await files.storage.put(id, part.file), filename }
    }
    if (!stored) throw invalid('file', 'is missing')
    if (!fields.has('purpose')) throw invalid('purpose', 'is missing: it must be "batch"')
    checkPurpose(fields.get('purpose') ?? '')
    const ttlMs = lifetimeOf(fields)
    return await files.add({ id, owner: request.caller.owner, purpose: 'batch', ...stored }, ttlMs)
  } catch (error) {
    if (stored) await files.storage.remove(id).catch(() => undefined)
    // The parser's own errors have no code: they are of what was sent.
    if (error instanceof RankmillError || (error as { code?: string }).code) throw error
    throw invalid('body', `not a form: ${(error as Error).message}`)
  }
}

function checkPurpose(purpose: string): void {
  if (purpose !== 'batch') throw invalid('purpose', `must be "batch", got ${JSON.stringify(purpose.slice(0, 40))}`)
}

/** OpenAI's `expires_after[anchor]` and `expires_after[seconds]`. @returns milliseconds; undefined where it does not say */
function lifetimeOf(fields: ReadonlyMap<string, string>): number | undefined {
  const seconds = fields.get('expires_after[seconds]')
  const anchor = fields.get('expires_after[anchor]')
  if (seconds === undefined && anchor === undefined) return undefined
  if (anchor !== 'created_at') throw invalid('expires_after[anchor]', 'must be "created_at"')
  const number = Number(seconds)
  if (!Number.isInteger(number) || number < SHORTEST_SECONDS || number > 2_592_000) {
    throw invalid('expires_after[seconds]', `must be a whole number from ${SHORTEST_SECONDS} to 2592000`)
  }
  return number * 1000
}
