/** One ONNX Runtime session of a model: made in an inference process, because its calls block their thread. */
import { dirname } from 'node:path'
import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import { type BoundFile, openBound } from '../model/bound-files.js'
import { throughLinks } from '../model/linked-weights.js'
import type { Model } from '../model/model.js'
import { type CausalAbilities, CausalRows } from './causal-rows.js'
import type { Batch, BatchOutput, States } from './engine.js'
import { floatsOf } from './half.js'
import { normaliseRows, poolTokens } from './pooling.js'
import type { SessionData } from './session-protocol.js'

/** Tokens of the calls that warm a session up: short, middling, long. */
const WARM_UP_LENGTHS = [16, 64, 128]

/** A loaded model that scores batches, one at a time. */
export class ScoringSession {
  readonly #session: InferenceSession
  readonly #data: SessionData
  readonly #model: Model | BiEncoderModel
  readonly #output: string
  #causal: CausalRows | undefined
  /** Of the model's stages; opened when first needed, for many workers never are asked for them. */
  readonly #stages = new Map<number, InferenceSession>()

  private constructor(session: InferenceSession, data: SessionData, output: string) {
    this.#session = session
    this.#data = data
    this.#model = data.model
    this.#output = output
  }

  /**
   * Loads the model and runs it once or twice, so that the first real batch does not pay for first allocations.
   *
   * @throws RankmillError `invalid_model`, `invalid_configuration` (the device is not there), `out_of_memory`
   */
  static async open(data: SessionData): Promise<ScoringSession> {
    const { model } = data
    // What goes wrong is thrown; ONNX Runtime's own lines on standard error would only say it twice.
    env.logLevel = 'fatal'
    const session = await openGraph(model.modelPath, model.files ?? [], data)
    const wanted = model.output ?? 'logits'
    const output = session.outputNames.includes(wanted) ? wanted : session.outputNames[0]
    if (output === undefined) throw new RankmillError('invalid_model', `${model.modelPath}: the graph has no output`)
    const scoring = new ScoringSession(session, data, output)
    if (model.kind === 'cross-encoder' && model.causal)
      scoring.#causal = await openRows(session, model, model.causal, data.prefixCacheBytes ?? 0)
    await scoring.#warmUp()
    return scoring
  }

  /** Of a causal model: how its rows share calls. */
  get abilities(): CausalAbilities | undefined {
    return this.#causal?.abilities
  }

  /** Of a causal model: tokens of the longest beginning that is kept. */
  get keptTokens(): number | undefined {
    return this.#causal?.keptTokens
  }

  /**
   * @returns [size] logits: that of the model's label; without one, of a head with two, logit 1 minus logit 0 (a softmax over
   *   two is the sigmoid of the difference);
   *   of a bi-encoder [size, dimensions] embeddings
   * @throws RankmillError `inference_failed`, `out_of_memory`, `invalid_model` (a stage that cannot be opened)
   */
  async run(batch: Batch): Promise<Omit<BatchOutput, 'inferenceMs'>> {
    if (batch.stage !== undefined) return await this.#runStage(batch, batch.stage)
    if (this.#causal) return { logits: this.#logitsOf(await run(this.#causal, batch), batch.size) }
    return { logits: await this.#runWhole(batch) }
  }

  async #runStage(batch: Batch, stage: number): Promise<Omit<BatchOutput, 'inferenceMs'>> {
    const { size, length, inputIds, attentionMask, tokenTypeIds } = batch
    const exits = this.#model.kind === 'cross-encoder' ? this.#model.exits : []
    const exit = exits[stage]
    if (!exit) throw new RankmillError('internal', `${this.#model.name} has no stage ${stage}`)
    let session = this.#stages.get(stage)
    if (!session) {
      session = await openGraph(exit.path, exit.files ?? [], this.#data)
      this.#stages.set(stage, session)
    }
    const tokens = {
      input_ids: inputIds,
      attention_mask: attentionMask,
      token_type_ids: tokenTypeIds ?? new BigInt64Array(size * length),
    }
    const feeds: Record<string, Tensor> = {}
    for (const [name, ids] of Object.entries(tokens))
      if (session.inputNames.includes(name)) feeds[name] = new Tensor('int64', ids, [size, length])
    for (const [name, shape] of Object.entries(exits[stage - 1]?.carries ?? {})) {
      const state = batch.states?.[name]
      if (!state || !session.inputNames.includes(name)) continue
      feeds[name] = new Tensor('float32', state, [size, ...shape.map((wide) => wide ?? length)])
    }
    const carried: Record<string, Float32Array> = {}
    let values: Float32Array | undefined
    try {
      const outputs = await session.run(feeds, ['logits', ...Object.keys(exit.carries)])
      for (const [name, output] of Object.entries(outputs)) {
        // Copied: what ONNX Runtime gives is its own memory, and gone with the output.
        const floats = floatsOf(output).slice()
        if (name === 'logits') values = floats
        else carried[name] = floats
        output.dispose()
      }
    } catch (cause) {
      throw runError(cause)
    }
    return { logits: this.#logitsOf(values ?? new Float32Array(), size), states: carried satisfies States }
  }

  async #runWhole({ size, length, inputIds, attentionMask, tokenTypeIds }: Batch): Promise<Float32Array> {
    const { usesTokenTypes, firstPosition, narrowInputs = [] } = this.#model
    const values64: Record<string, BigInt64Array> = { input_ids: inputIds, attention_mask: attentionMask }
    if (usesTokenTypes) values64.token_type_ids = tokenTypeIds ?? new BigInt64Array(size * length)
    if (firstPosition !== undefined) values64.position_ids = positionsFrom(firstPosition, size, length)
    const feeds: Record<string, Tensor> = {}
    for (const [name, ids] of Object.entries(values64)) {
      feeds[name] = narrowInputs.includes(name)
        ? new Tensor('int32', Int32Array.from(ids, Number), [size, length])
        : new Tensor('int64', ids, [size, length])
    }
    let values: Float32Array
    let pooled = true
    try {
      const outputs = await this.#session.run(feeds, [this.#output])
      const output = outputs[this.#output]
      if (!(output instanceof Tensor)) throw new Error('the output is not a tensor')
      values = floatsOf(output)
      pooled = output.dims.length === 2
      output.dispose()
    } catch (cause) {
      throw runError(cause)
    }
    if (this.#model.kind === 'bi-encoder') {
      const vectors = pooled ? values : poolTokens(values, attentionMask, size, length, this.#model.pooling)
      return normaliseRows(vectors, size)
    }
    return this.#logitsOf(values, size)
  }

  #logitsOf(values: Float32Array, size: number): Float32Array {
    const { logits: width, label } =
      this.#model.kind === 'cross-encoder' ? this.#model : { logits: 1, label: undefined }
    if (values.length !== size * width) {
      const shape = `${values.length} numbers for ${size} pairs`
      throw new RankmillError('inference_failed', `the model gave ${shape}, where ${width} each were expected`)
    }
    const logitOf = (row: number) =>
      label === undefined
        ? (values[2 * row + 1] ?? 0) - (values[2 * row] ?? 0)
        : (values[width * row + label] ?? Number.NaN)
    const logits = width === 1 ? values : Float32Array.from({ length: size }, (_, row) => logitOf(row))
    // A score that is no number cannot be ranked, and would spoil the order of all others.
    if (!logits.every(Number.isFinite))
      throw new RankmillError('inference_failed', 'the model gave a score that is not a finite number')
    return logits
  }

  /** Frees the session's memory. */
  async release(): Promise<void> {
    this.#causal?.release()
    await Promise.all([this.#session, ...this.#stages.values()].map((session) => session.release()))
  }

  async #warmUp(): Promise<void> {
    const { maxTokens, modelPath } = this.#model
    for (const wanted of WARM_UP_LENGTHS) {
      const length = Math.min(wanted, maxTokens)
      const inputIds = new BigInt64Array(length).fill(1n)
      const attentionMask = new BigInt64Array(length).fill(1n)
      try {
        await this.run({ size: 1, length, inputIds, attentionMask, tokenTypeIds: null })
      } catch (cause) {
        const { code, message } = RankmillError.from(cause)
        throw new RankmillError(
          code === 'out_of_memory' ? code : 'invalid_model',
          `${modelPath}: a trial run failed: ${message}`,
        )
      }
    }
  }
}

async function openRows(...opening: Parameters<typeof CausalRows.open>): Promise<CausalRows> {
  const [, { modelPath }] = opening
  try {
    return await CausalRows.open(...opening)
  } catch (cause) {
    const { code, message } = runError(cause)
    const kind = code === 'out_of_memory' ? code : 'invalid_model'
    throw new RankmillError(kind, `${modelPath}: a trial run failed: ${message}`, {}, { cause })
  }
}

async function run(rows: CausalRows, batch: Batch): Promise<Float32Array> {
  try {
    return await rows.run(batch)
  } catch (cause) {
    throw runError(cause)
  }
}

/** Every row counts on from the same position; what stands under padding is masked. */
function positionsFrom(first: number, size: number, length: number): BigInt64Array {
  return BigInt64Array.from({ length: size * length }, (_, i) => BigInt(first + (i % length)))
}

/** @param files what its scores are kept under: a graph that is another one now is not run in its place */
async function openGraph(path: string, files: readonly BoundFile[], data: SessionData): Promise<InferenceSession> {
  const beside = files.map((file) => file.path).filter((file) => file !== path && dirname(file) === dirname(path))
  return await openBound(files, () => throughLinks(path, beside, (readable) => createSession(readable, path, data)))
}

async function createSession(
  readable: string,
  path: string,
  { device, threads }: SessionData,
): Promise<InferenceSession> {
  try {
    return await InferenceSession.create(readable, {
      executionProviders: [device],
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      executionMode: 'sequential',
      enableCpuMemArena: true,
      // A pattern is kept for every input shape ever met: with hundreds of batch shapes that is memory that only grows.
      enableMemPattern: false,
      logSeverityLevel: 4,
      // Threads that spin while they wait take the cores from the other sessions, the tokeniser and Redis: with other work
      // on the machine, a session of two spinning threads ran at half the speed of one whose threads sleep.
      extra: { session: { intra_op: { allow_spinning: '0' } } },
    })
  } catch (cause) {
    throw startError(cause, path, device)
  }
}

function runError(cause: unknown): RankmillError {
  const message = messageOf(cause)
  return new RankmillError(isOutOfMemory(message) ? 'out_of_memory' : 'inference_failed', message, {}, { cause })
}

function startError(cause: unknown, path: string, device: string): RankmillError {
  const message = messageOf(cause)
  if (isOutOfMemory(message)) return new RankmillError('out_of_memory', `${path}: ${message}`, {}, { cause })
  const missing = /ExecutionProvider|execution provider|Failed to load (shared )?library|backend not found|webgpu|CUDA/i
  if (device !== 'cpu' && missing.test(message)) {
    const text = `device: "${device}" cannot be used on this machine (${message.split('\n')[0]?.trim() ?? ''})`
    return new RankmillError('invalid_configuration', text, { param: 'device' }, { cause })
  }
  return new RankmillError('invalid_model', `${path}: ${message}`, {}, { cause })
}

/**
 * Whether a call failed because the device is gone: what comes after it in the same process fails too, whatever it is. Dawn
 * says that a device or its instance is lost; CUDA keeps an error for good once a kernel has gone wrong.
 */
export function isDeviceLost(message: string): boolean {
  return /device (is|was|has been) lost|device lost|instance dropped|DEVICE_LOST|illegal memory access|unspecified launch failure|uncorrectable ECC|CUDA (failure|error)[: ]+(46|214|700|702|709|710|719|999)\b/i.test(
    message,
  )
}

/** ONNX Runtime has no error codes in JavaScript: its allocators are known by their words. */
export function isOutOfMemory(message: string): boolean {
  return /bad_?alloc|bad allocation|failed to allocate memory|out of memory|out_of_memory|ALLOC_FAILED|array buffer allocation/i.test(
    message,
  )
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
