/**
 * The hub's HTTP, as far as whole models need it: which files a revision has, and each of them whole, resumed where a download
 * was cut off and compared with the hub's own checksum. @huggingface/hub neither resumes nor compares.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { RankmillError } from '../../../shared/errors.js'

export interface HubFile {
  readonly name: string
  readonly bytes?: number | undefined
  /** Of files in LFS. */
  readonly sha256?: string | undefined
  /** Git's name of the content, of all others. */
  readonly blob?: string | undefined
}

/** A revision as it was when it was asked for. */
export interface HubSnapshot {
  readonly id: string
  readonly commit: string
  readonly files: readonly HubFile[]
  readonly licence: string | null
}

const answerSchema = z.looseObject({
  sha: z.string().regex(/^[0-9a-f]{7,64}$/),
  siblings: z.array(
    z.looseObject({
      rfilename: z.string(),
      size: z.int().nonnegative().nullish(),
      blobId: z.string().nullish(),
      lfs: z.looseObject({ sha256: z.string().optional(), size: z.int().optional() }).nullish(),
    }),
  ),
  cardData: z
    .looseObject({ license: z.union([z.string(), z.array(z.string())]).nullish(), license_name: z.string().nullish() })
    .nullish(),
})

/** Tries that may bring nothing, one after another, until a download is given up. */
const TRIES = 5
const FIRST_WAIT_MS = 500
/** A hub that asks for more patience is told of instead. */
const MOST_WAIT_MS = 60_000

function hubEndpoint(): string {
  return (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '')
}

/**
 * @param revision branch, tag or commit
 * @throws RankmillError `unknown_model`, `hub_denied`, `hub_unavailable`; the signal's reason
 */
export async function findSnapshot(id: string, revision: string, signal: AbortSignal): Promise<HubSnapshot> {
  const url = `${hubEndpoint()}/api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`
  const what = `model "${id}" (revision ${revision})`
  const parsed = await persistently(what, signal, async () => {
    const response = await ask(url, what, signal)
    return answerSchema.safeParse(await response.json().catch(() => undefined))
  })
  if (!parsed.success) throw unavailable(`${what}: ${url} does not answer as a hub does`, parsed.error)
  const { sha, siblings, cardData } = parsed.data
  const files = siblings.map(({ rfilename, size, blobId, lfs }) => {
    // What a hub says must not lead out of the folder that its files are put into.
    if (/^\/|\\|(^|\/)\.\.(\/|$)/.test(rfilename))
      throw unavailable(`${what}: the hub lists a file that cannot be: ${rfilename}`)
    return { name: rfilename, bytes: lfs?.size ?? size ?? undefined, sha256: lfs?.sha256, blob: blobId ?? undefined }
  })
  const { license, license_name: named } = cardData ?? {}
  const licence = (Array.isArray(license) ? license.join(', ') : license) ?? null
  return { id, commit: sha, files, licence: licence === 'other' ? (named ?? licence) : licence }
}

interface DownloadOptions {
  readonly signal: AbortSignal
  /** Bytes of the file that are here. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

/**
 * Brings one file of a snapshot to a path, where it appears whole or not at all; what was fetched before an interruption stays
 * beside it and is not fetched again.
 *
 * @throws RankmillError `unknown_model`, `hub_denied`, `hub_unavailable` (also where a checksum does not hold twice),
 *   `output_unwritable`; the signal's reason
 */
export async function downloadFile(
  { id, commit }: HubSnapshot,
  file: HubFile,
  path: string,
  { signal, onBytes }: DownloadOptions,
): Promise<void> {
  const part = `${path}.part`
  const place = file.name.split('/').map(encodeURIComponent).join('/')
  const url = `${hubEndpoint()}/${id}/resolve/${commit}/${place}`
  const what = `${id}: ${file.name}`
  await mkdir(dirname(path), { recursive: true })
  for (let again = false; ; again = true) {
    const said = await fetchWhole(url, what, part, file.bytes, { signal, onBytes })
    const fault = await faultOf(part, { ...checksumIn(said), ...defined(file) })
    if (fault === undefined) break
    await rm(part, { force: true })
    if (again) throw unavailable(`${what}: ${fault}, twice: what the hub or a proxy before it sends is not the file`)
  }
  await rename(part, path)
}

function defined(file: HubFile): Partial<HubFile> {
  return Object.fromEntries(Object.entries(file).filter(([, value]) => value !== undefined))
}

/** Reads on where `part` ends, until all is there. @returns the headers of the last answer */
async function fetchWhole(
  url: string,
  what: string,
  part: string,
  bytes: number | undefined,
  { signal, onBytes }: DownloadOptions,
): Promise<Headers | undefined> {
  let headers: Headers | undefined
  await persistently(what, signal, async (progress) => {
    let from = (await stat(part).catch(() => undefined))?.size ?? 0
    if (bytes !== undefined && from > bytes) await rm(part)
    if (bytes !== undefined && from === bytes) return
    const response = await ask(url, what, signal, from > 0 ? { range: `bytes=${from}-` } : {})
    const isRest = response.headers.get('content-range')?.startsWith(`bytes ${from}-`) ?? false
    if (response.status === 416 || (response.status === 206 && !isRest)) {
      await response.body?.cancel()
      await rm(part, { force: true })
      throw new Interrupted('the rest of it cannot be had, so that it is fetched anew')
    }
    if (response.status !== 206) from = 0
    headers = response.headers
    const target = await open(part, response.status === 206 ? 'a' : 'w')
    try {
      // One after another, so that what came before a connection broke is in the file.
      for await (const chunk of response.body ?? []) {
        await target.writeFile(chunk)
        from += chunk.length
        progress()
        onBytes?.(from)
      }
    } catch (cause) {
      signal.throwIfAborted()
      const { syscall, message } = cause as NodeJS.ErrnoException
      if (syscall === 'write')
        throw new RankmillError('output_unwritable', `${part}: ${message}`, { param: 'cacheDir' }, { cause })
      throw new Interrupted(`the connection broke: ${message}`)
    } finally {
      await target.close()
    }
    if (bytes !== undefined && from < bytes)
      throw new Interrupted(`the connection ended after ${from} of ${bytes} bytes`)
  })
  return headers
}

/** Older hubs and mirrors say checksums only here: 64 digits of SHA-256, or Git's 40. */
function checksumIn(headers: Headers | undefined): Partial<HubFile> {
  const etag = (headers?.get('x-linked-etag') ?? headers?.get('etag') ?? '').replace(/^W\/|"/g, '')
  return /^[0-9a-f]{64}$/.test(etag) ? { sha256: etag } : /^[0-9a-f]{40}$/.test(etag) ? { blob: etag } : {}
}

/** @returns what is wrong with a file that was fetched */
async function faultOf(path: string, { bytes, sha256, blob }: Partial<HubFile>): Promise<string | undefined> {
  const { size } = await stat(path).catch(() => ({ size: 0 }))
  if (bytes !== undefined && size !== bytes) return `it has ${size} bytes instead of ${bytes}`
  const [algorithm, wanted, head] =
    sha256 === undefined ? (['sha1', blob, `blob ${size}\0`] as const) : (['sha256', sha256, ''] as const)
  if (wanted === undefined) return undefined
  const hash = createHash(algorithm).update(head)
  if (size > 0) await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
  else hash.end()
  const found = hash.digest('hex')
  return found === wanted ? undefined : `its ${algorithm} is ${found} instead of ${wanted}`
}

/** What another try may mend. */
class Interrupted extends Error {
  readonly waitMs: number | undefined

  constructor(message: string, waitMs?: number) {
    super(message)
    this.waitMs = waitMs
  }
}

/** Tries again after what passes: broken connections, a hub that is busy. */
async function persistently<T>(
  what: string,
  signal: AbortSignal,
  work: (progress: () => void) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work(() => {
        tries = 0
      })
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof Interrupted)) throw error
      const { waitMs = FIRST_WAIT_MS * 2 ** Math.max(0, tries - 1) } = error
      if (tries >= TRIES || waitMs > MOST_WAIT_MS) throw unavailable(`${what}: ${error.message}`, error)
      await delay(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted())
    }
  }
}

async function ask(
  url: string,
  what: string,
  signal: AbortSignal,
  headers: Record<string, string> = {},
): Promise<Response> {
  const { HF_TOKEN: token } = process.env
  let response: Response
  try {
    // fetch leaves the token out where a redirection leads to another host, as it must.
    response = await fetch(url, {
      signal,
      headers: {
        ...headers,
        'accept-encoding': 'identity',
        'user-agent': 'rankmill',
        ...(token ? { authorization: `Bearer ${token}` } : {}),
      },
    })
  } catch (cause) {
    signal.throwIfAborted()
    const why = cause instanceof Error && cause.cause instanceof Error ? `: ${cause.cause.message}` : ''
    throw new Interrupted(`the hub at ${hubEndpoint()} is not reached${why}`)
  }
  const { status } = response
  if (response.ok || status === 416) return response
  await response.body?.cancel()
  throw refusal(response, what)
}

function refusal({ status, headers }: Response, what: string): Error {
  const hub = hubEndpoint()
  if (status === 404) return new RankmillError('unknown_model', `${what}: ${hub} does not have it`, { param: 'model' })
  if (status === 401 || status === 403) {
    const given = process.env.HF_TOKEN
      ? 'the token in HF_TOKEN is not let in'
      : 'it is private, gated or not there, and HF_TOKEN is not set'
    const why = headers.get('x-error-message') ?? given
    return new RankmillError('hub_denied', `${what}: ${hub} answers ${status}: ${why}`, { param: 'model' })
  }
  if (status === 429 || status >= 500) {
    const seconds = Number(headers.get('retry-after') ?? Number.NaN)
    const patience = Number.isFinite(seconds) ? `, and asks for ${seconds} s of patience` : ''
    return new Interrupted(`${hub} answers ${status}${patience}`, Number.isFinite(seconds) ? seconds * 1000 : undefined)
  }
  return unavailable(`${what}: ${hub} answers ${status}`)
}

function unavailable(message: string, cause?: unknown): RankmillError {
  return new RankmillError('hub_unavailable', message, { param: 'model' }, { cause })
}
