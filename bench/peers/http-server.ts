/** The race's HTTP servers: how each is started, how it is asked. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Command, Workshop } from './environments.js'
import type { List } from './peer-lines.js'
import { type TreeUse, treeUse } from './process-tree.js'

export interface ServerPeer {
  readonly name: string
  readonly precision: string
  /** What the model has to be made ready for. */
  readonly environment?: string
  /** Whose POST /rerank it speaks: Cohere's, or that of text-embeddings-inference. */
  readonly dialect: 'cohere' | 'tei'
  /** For those that the race starts. */
  readonly command?: (workshop: Workshop, threads: number, port: number) => Promise<Command>
  /** For one that runs already. */
  readonly url?: string
}

const MODEL = 'peer'
/** Loading torch and a model. */
const START_MS = 600_000
const POLL_MS = 100

export const SERVERS: readonly ServerPeer[] = [
  { name: 'rankmill', precision: 'fp32', environment: 'node', dialect: 'cohere', command: rankmill('fp32') },
  { name: 'rankmill-int8', precision: 'int8', environment: 'node', dialect: 'cohere', command: rankmill('int8') },
  {
    name: 'infinity-torch',
    precision: 'fp32',
    environment: 'infinity',
    dialect: 'cohere',
    command: infinity('torch', ''),
  },
  {
    name: 'infinity-optimum',
    precision: 'fp32',
    environment: 'infinity',
    dialect: 'cohere',
    command: infinity('optimum', ''),
  },
  {
    name: 'infinity-optimum-qint8',
    precision: 'int8',
    environment: 'infinity',
    dialect: 'cohere',
    command: infinity('optimum', '-quantized'),
  },
  {
    name: 'fastapi-st-torch',
    precision: 'fp32',
    environment: 'sentence-transformers',
    dialect: 'cohere',
    command: fastapi('sentence-transformers', 'st-torch'),
  },
  {
    name: 'fastapi-st-openvino',
    precision: 'bf16 or fp32',
    environment: 'st-openvino',
    dialect: 'cohere',
    command: fastapi('st-openvino', 'st-openvino'),
  },
  {
    name: 'fastapi-st-openvino-qint8',
    precision: 'int8',
    environment: 'st-openvino',
    dialect: 'cohere',
    command: fastapi('st-openvino', 'st-openvino-qint8'),
  },
]

/** All of it on one machine, by the command that users have; in a folder of its own, so that each has a Redis of its own. */
function rankmill(dtype: string) {
  return async (workshop: Workshop, threads: number, port: number): Promise<Command> => {
    const model = ['--model', `${MODEL}=${await workshop.makeInt8()}`, '--dtype', dtype, '--threads', String(threads)]
    // No request is asked twice; what a cache would answer is not the race.
    const rest = ['--port', String(port), '--score-cache-ttl-ms', '0']
    const cwd = await workshop.makeFolder(`up-${dtype}`)
    return { command: process.execPath, args: [resolve('dist/cli/main.js'), 'up', ...model, ...rest], cwd }
  }
}

function infinity(engine: string, variant: string) {
  return async (workshop: Workshop, _threads: number, port: number): Promise<Command> => {
    const model = ['--model-id', workshop.model + variant, '--served-model-name', MODEL, '--engine', engine]
    const rest = ['--device', 'cpu', '--no-bettertransformer', '--host', '127.0.0.1', '--port', String(port)]
    // With another graph beside it, it takes the quantised one by its name, or any.
    const args = ['-m', 'infinity_emb.cli', 'v2', ...model, '--onnx-do-not-prefer-quantized', ...rest]
    return { command: await workshop.python('infinity'), args }
  }
}

function fastapi(environment: string, library: string) {
  return async (workshop: Workshop, threads: number, port: number): Promise<Command> => ({
    command: await workshop.python(environment),
    args: [resolve(join('bench', 'peers', 'peer.py')), library, workshop.model, String(threads), String(port)],
  })
}

export class HttpServer {
  readonly peer: ServerPeer
  readonly startSeconds: number
  readonly #url: string
  readonly #child: ChildProcess | undefined

  private constructor(peer: ServerPeer, url: string, startSeconds: number, child: ChildProcess | undefined) {
    this.peer = peer
    this.#url = url
    this.startSeconds = startSeconds
    this.#child = child
  }

  /** Resolves when it has answered once. @throws Error with the last thing that it said, where it does not start */
  static async start(peer: ServerPeer, workshop: Workshop, threads: number): Promise<HttpServer> {
    const first = { query: 'a question', documents: ['an answer'] }
    if (peer.url !== undefined || !peer.command) {
      const running = new HttpServer(peer, peer.url ?? '', 0, undefined)
      await running.ask(first)
      return running
    }
    const port = await freePort()
    const { command, args, cwd } = await peer.command(workshop, threads, port)
    const env = { ...process.env, ...numberOfThreads(threads), HF_HUB_OFFLINE: '1', DO_NOT_TRACK: '1' }
    const startedAt = performance.now()
    const child = spawn(command, args, { cwd, env: without(env, 'REDIS_URL'), stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk) => {
        said = `${said}${chunk}`.slice(-4000)
      })
    const url = `http://127.0.0.1:${port}/${peer.name.startsWith('rankmill') ? 'v1/' : ''}rerank`
    for (;;) {
      const server = new HttpServer(peer, url, (performance.now() - startedAt) / 1000, child)
      if (
        await server.ask(first).then(
          () => true,
          () => false,
        )
      )
        return server
      if (child.exitCode !== null || performance.now() - startedAt > START_MS) {
        child.kill('SIGKILL')
        throw new Error(`does not start: ${causeIn(said)}`)
      }
      await delay(POLL_MS)
    }
  }

  /** Scores in the documents' order. @throws Error where it answers with no 200 */
  async ask({ query, documents }: List): Promise<number[]> {
    const tei = this.peer.dialect === 'tei'
    const asked = tei ? { query, texts: documents } : { model: MODEL, query, documents }
    const response = await fetch(this.#url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(asked),
    })
    if (!response.ok) throw new Error(`${this.peer.name} answers ${response.status}: ${await response.text()}`)
    const said = (await response.json()) as Found[] | { results: Found[] }
    const scores: number[] = []
    for (const { index, relevance_score, score } of Array.isArray(said) ? said : said.results)
      scores[index] = relevance_score ?? score ?? Number.NaN
    return scores
  }

  /** Of its processes; undefined of one that runs elsewhere. */
  use(): TreeUse | undefined {
    return this.#child?.pid === undefined ? undefined : treeUse(this.#child.pid)
  }

  async end(): Promise<void> {
    if (!this.#child || this.#child.exitCode !== null) return
    this.#child.kill('SIGTERM')
    await once(this.#child, 'exit')
  }
}

/** What a server said of its failure: Python's last exception, else its last line. */
function causeIn(said: string): string {
  const lines = said.trim().split('\n')
  return lines.findLast((line) => /^[\w.]*(Error|Exception)\b.*: /.test(line)) ?? lines.at(-1) ?? ''
}

interface Found {
  readonly index: number
  readonly relevance_score?: number
  readonly score?: number
}

function numberOfThreads(threads: number): Record<string, string> {
  const names = ['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'RAYON_NUM_THREADS']
  return Object.fromEntries(names.map((name) => [name, String(threads)]))
}

function without(env: NodeJS.ProcessEnv, name: string): NodeJS.ProcessEnv {
  const { [name]: _, ...rest } = env
  return rest
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  return typeof address === 'object' && address ? address.port : 0
}
