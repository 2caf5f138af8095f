/** A hub on this machine: the part of its HTTP that models are downloaded by, with the faults that real ones have. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, relative } from 'node:path'

export const COMMIT = '0123456789abcdef0123456789abcdef01234567'

const CUT_MS = 100

export interface Asked {
  readonly method: string
  readonly url: string
  readonly host: string
  readonly range: string | undefined
  readonly authorization: string | undefined
}

export interface HubFaults {
  /** Answers before the right ones, in this order: a status, with its headers. */
  refusals: [status: number, headers?: Record<string, string>][]
  /** A file's download ends after so many bytes, once. */
  cutAfter: number | undefined
  /** Large files are sent with a byte changed, so many times. */
  damaged: number
  /** The API says no checksums and sizes. */
  withoutBlobs: boolean
  /** What a token has to be. */
  token: string | undefined
  /** Ranges are not known here. */
  withoutRanges: boolean
}

export class HubServer {
  readonly asked: Asked[] = []
  readonly faults: HubFaults = {
    refusals: [],
    cutAfter: undefined,
    damaged: 0,
    withoutBlobs: false,
    token: undefined,
    withoutRanges: false,
  }
  readonly #server: Server
  readonly #folders: Readonly<Record<string, string>>
  #port = 0

  private constructor(folders: Readonly<Record<string, string>>) {
    this.#folders = folders
    this.#server = createServer((request, response) => this.#answer(request, response))
  }

  /** @param folders what each `org/name` holds */
  static async start(folders: Readonly<Record<string, string>>): Promise<HubServer> {
    const hub = new HubServer(folders)
    await new Promise<void>((resolve) => hub.#server.listen(0, '127.0.0.1', resolve))
    hub.#port = (hub.#server.address() as AddressInfo).port
    return hub
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { url = '', method = '', headers } = request
    const { host = '', range, authorization } = headers
    this.asked.push({ method, url, host, range, authorization })
    const [path = ''] = url.split('?')
    // Large files come from elsewhere, as from a content network.
    const isElsewhere = path.startsWith('/elsewhere/')
    const refusal = this.faults.refusals.shift()
    const { token } = this.faults
    const isDenied = token !== undefined && !isElsewhere && authorization !== `Bearer ${token}`
    const [, id = '', revision = ''] = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path) ?? []
    const folder = ['main', 'v1', COMMIT].includes(revision) ? this.#folders[id] : undefined
    const [, owner = '', commit, file = ''] =
      /^(?:\/elsewhere)?\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path) ?? []
    const content = commit === COMMIT ? read(this.#folders[owner], decodeURIComponent(file)) : undefined
    if (refusal) response.writeHead(...refusal).end()
    else if (isDenied) response.writeHead(401, { 'x-error-message': 'Access to it is restricted.' }).end()
    else if (folder !== undefined) this.#list(folder, response)
    else if (!content) response.writeHead(404).end()
    else if (isLarge(file) && !isElsewhere) {
      const location = `http://localhost:${this.#port}/elsewhere${path}`
      response.writeHead(302, { location, 'x-linked-etag': `"${sha256(content)}"` }).end()
    } else this.#send(file, content, range, response)
  }

  #list(folder: string, response: ServerResponse): void {
    const siblings = filesOf(folder).map((name) => {
      const content = read(folder, name) ?? Buffer.alloc(0)
      if (this.faults.withoutBlobs) return { rfilename: name }
      const lfs = isLarge(name) ? { lfs: { sha256: sha256(content), size: content.length } } : {}
      return { rfilename: name, size: content.length, blobId: blob(content), ...lfs }
    })
    const answer = { id: 'tiny/reranker', sha: COMMIT, siblings, cardData: { license: 'apache-2.0' } }
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  }

  #send(file: string, whole: Buffer, range: string | undefined, response: ServerResponse): void {
    const { faults } = this
    let content = whole
    if (isLarge(file) && faults.damaged > 0) {
      faults.damaged--
      content = Buffer.from(whole)
      content[content.length - 1] = (content.at(-1) ?? 0) ^ 1
    }
    const from = faults.withoutRanges ? undefined : /^bytes=(\d+)-$/.exec(range ?? '')?.[1]
    if (from !== undefined && Number(from) >= content.length) {
      response.writeHead(416).end()
      return
    }
    const rest = content.subarray(Number(from ?? 0))
    const checksum = isLarge(file) ? sha256(whole) : blob(whole)
    const headers = { 'content-length': rest.length, etag: `"${checksum}"` }
    const span = `bytes ${from}-${content.length - 1}/${content.length}`
    response.writeHead(
      from === undefined ? 200 : 206,
      from === undefined ? headers : { ...headers, 'content-range': span },
    )
    if (!isLarge(file) || faults.cutAfter === undefined) {
      response.end(rest)
      return
    }
    // Not in one with what was sent, so that this is read before.
    response.write(rest.subarray(0, faults.cutAfter), () => setTimeout(() => response.destroy(), CUT_MS))
    faults.cutAfter = undefined
  }
}

function isLarge(name: string): boolean {
  return /\.(onnx|safetensors|onnx_data)$/.test(name)
}

function filesOf(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true, recursive: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => relative(folder, join(entry.parentPath, entry.name)))
}

function read(folder: string | undefined, name: string): Buffer | undefined {
  return folder !== undefined && filesOf(folder).includes(name) ? readFileSync(join(folder, name)) : undefined
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}

function blob(content: Buffer): string {
  return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex')
}
