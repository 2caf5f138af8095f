/** The API server over HTTP, as its callers meet it. */
import { ApiServer, type ServerParts } from '../../server/server.js'
import type { OptionsInput } from '../../shared/options.js'
import type { Stage } from './stage.js'

export interface Answer {
  readonly status: number
  readonly headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: an answer is read as its reader expects it
  readonly body: any
}

export class Api {
  readonly url: string
  readonly server: ApiServer

  static async start(stage: Stage, options: OptionsInput = {}, parts: ServerParts = {}): Promise<Api> {
    const server = await ApiServer.start(
      stage.options({ port: 0, dataDir: `.cache/test-server/${stage.prefix.replace(/\W/g, '')}`, ...options }),
      parts,
    )
    stage.onEnd(() => server.close())
    return new Api(server)
  }

  private constructor(server: ApiServer) {
    this.server = server
    this.url = server.url
  }

  async call(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
    signal?: AbortSignal,
  ): Promise<Answer> {
    const isRaw = typeof body === 'string' || body instanceof Uint8Array || body instanceof FormData
    const response = await fetch(`${this.url}${path}`, {
      method,
      ...(body === undefined ? {} : { body: (isRaw ? body : JSON.stringify(body)) as string }),
      headers: {
        ...(body === undefined || body instanceof FormData ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(signal ? { signal } : {}),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.includes('json')
    return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : text }
  }

  post(path: string, body?: unknown, headers?: Record<string, string>, signal?: AbortSignal): Promise<Answer> {
    return this.call('POST', path, body, headers, signal)
  }

  get(path: string, headers?: Record<string, string>): Promise<Answer> {
    return this.call('GET', path, undefined, headers)
  }
}
