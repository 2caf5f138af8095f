/** The peers, and an environment for each that lives in Python: made once, by uv where it is there, else by venv and pip. */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const SOURCES = resolve('bench/peers')
/** Downloads of torch and what it brings. */
const INSTALL_TIMEOUT_MS = 3_600_000

export interface Peer {
  readonly name: string
  /** What its arithmetic is done in. */
  readonly precision: 'fp32' | 'int8' | 'bf16 or fp32'
  readonly environment: string
}

export interface Command {
  readonly command: string
  readonly args: string[]
  /** Where it is started; absent: here. */
  readonly cwd?: string
}

/** In Node, from this checkout. */
const NODE = 'node'

export const PEERS: readonly Peer[] = [
  { name: 'rankmill', precision: 'fp32', environment: NODE },
  { name: 'rankmill-int8', precision: 'int8', environment: NODE },
  { name: 'st-torch', precision: 'fp32', environment: 'sentence-transformers' },
  { name: 'st-onnx', precision: 'fp32', environment: 'st-onnx' },
  { name: 'st-onnx-qint8', precision: 'int8', environment: 'st-onnx' },
  { name: 'st-openvino', precision: 'bf16 or fp32', environment: 'st-openvino' },
  { name: 'st-openvino-fp32', precision: 'fp32', environment: 'st-openvino' },
  { name: 'st-openvino-qint8', precision: 'int8', environment: 'st-openvino' },
  { name: 'flashrank', precision: 'fp32', environment: 'flashrank' },
  { name: 'fastembed', precision: 'fp32', environment: 'fastembed' },
  { name: 'infinity-torch', precision: 'fp32', environment: 'infinity' },
  { name: 'infinity-optimum', precision: 'fp32', environment: 'infinity' },
  { name: 'infinity-optimum-qint8', precision: 'int8', environment: 'infinity' },
  { name: 'rerankers', precision: 'fp32', environment: 'rerankers' },
  { name: 'transformers-js', precision: 'fp32', environment: NODE },
]

/** Where everything of the race lies. */
export class Workshop {
  readonly #folder: string
  readonly #say: (line: string) => void

  constructor(folder: string, say: (line: string) => void) {
    this.#folder = resolve(folder)
    this.#say = say
  }

  get model(): string {
    return join(this.#folder, 'model')
  }

  /** What peers make their variants from: lists, and passages to train with. */
  get texts(): string {
    return join(this.#folder, 'texts.json')
  }

  /** A folder for a server's own files. */
  async makeFolder(name: string): Promise<string> {
    const folder = join(this.#folder, name)
    await mkdir(folder, { recursive: true })
    return folder
  }

  /** The environment's python; what its requirements have gained since it was made is added. */
  async python(environment: string): Promise<string> {
    const folder = join(this.#folder, 'envs', environment)
    const python = join(folder, 'bin', 'python')
    const done = join(folder, 'installed')
    const requirements = join(SOURCES, 'requirements', `${environment}.txt`)
    const wanted = await readFile(requirements, 'utf8')
    if (existsSync(done) && (await readFile(done, 'utf8')) === wanted) return python
    this.#say(`installing ${environment}`)
    // Without its note it was not made to the end.
    if (!existsSync(done)) await rm(folder, { recursive: true, force: true })
    const options = { timeout: INSTALL_TIMEOUT_MS, maxBuffer: 1 << 26 }
    if (spawnSync('uv', ['--version']).status === 0) {
      if (!existsSync(python)) await run('uv', ['venv', '-q', folder], options)
      await run('uv', ['pip', 'install', '-q', '--python', python, '-r', requirements], options)
    } else {
      if (!existsSync(python)) await run('python3', ['-m', 'venv', folder], options)
      await run(python, ['-m', 'pip', 'install', '-q', '-r', requirements], options)
    }
    await writeFile(done, wanted)
    return python
  }

  /** Bytes of an environment, once for each file however often it is linked. */
  async size(environment: string): Promise<number> {
    const folder = environment === NODE ? 'node_modules' : join(this.#folder, 'envs', environment)
    const { stdout } = await run('du', ['-sb', folder])
    return Number(stdout.split('\t')[0])
  }

  /** The model, with what the peers that take part make of it. */
  async makeModel(environments: ReadonlySet<string>): Promise<void> {
    await mkdir(this.#folder, { recursive: true })
    const make = async (file: string, environment: string, script: string, ...args: string[]) => {
      if (existsSync(join(this.model, file))) return
      const python = await this.python(environment)
      this.#say(`making ${file}`)
      await run(python, [join(SOURCES, script), ...args], { maxBuffer: 1 << 26 })
    }
    await make('onnx/model.onnx', 'sentence-transformers', 'make_model.py', this.model, this.texts)
    if (environments.has('st-onnx') || environments.has('infinity'))
      await make('../model-quantized/onnx/model_quantized.onnx', 'st-onnx', 'make_variants.py', 'onnx', this.model)
    if (environments.has('st-openvino')) {
      const file = 'openvino/openvino_model_qint8_quantized.bin'
      await make(file, 'st-openvino', 'make_variants.py', 'openvino', this.model, this.texts)
    }
  }

  /** Our own int8, by the command that users have; a copy, since the peers' folder stays as their tools left it. */
  async makeInt8(): Promise<string> {
    const folder = `${this.model}-rankmill`
    if (!existsSync(join(folder, 'onnx', 'model_int8.onnx'))) {
      this.#say('quantising the model (rankmill models quantize)')
      await run('cp', ['-r', `${this.model}/.`, folder])
      await rm(join(folder, 'onnx', 'model_qint8.onnx'), { force: true })
      await rm(join(folder, 'openvino'), { recursive: true, force: true })
      const python = await this.python('sentence-transformers')
      const quantize = ['models', 'quantize', folder, '--dtype', 'int8', '--python', python, '--sample', '1']
      await run(process.execPath, ['dist/cli/main.js', ...quantize], { maxBuffer: 1 << 26 })
    }
    return folder
  }

  /** How a peer is started. */
  async command({ name, environment }: Peer, threads: number): Promise<Command> {
    if (environment !== NODE) {
      const args = [join(SOURCES, 'peer.py'), name, this.model, String(threads)]
      return { command: await this.python(environment), args }
    }
    if (name === 'transformers-js') {
      return {
        command: process.execPath,
        args: ['dist/bench/peers/transformers-js-peer.js', this.model, String(threads)],
      }
    }
    const dtype = name === 'rankmill-int8' ? 'int8' : 'fp32'
    const folder = await this.makeInt8()
    return { command: process.execPath, args: ['dist/bench/peers/rankmill-peer.js', folder, String(threads), dtype] }
  }
}
