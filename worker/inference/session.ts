/** One ONNX Runtime session of a model: made on an inference thread, because its calls block their thread. */
import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Model } from '../model/model.js'
import type { Batch } from './engine.js'
import { floatsOf } from './half.js'
import { normaliseRows, poolTokens } from './pooling.js'
import type { ThreadData } from './thread-protocol.js'

/** Tokens of the calls that warm a session up: short, middling, long. */
const WARM_UP_LENGTHS = [16, 64, 128]

/** A loaded model that scores batches, one at a time. */
export class ScoringSession {
  readonly #session: InferenceSession
  readonly #model: Model | BiEncoderModel
  readonly #output: string

  private constructor(session: InferenceSession, model: Model | BiEncoderModel, output: string) {
    this.#session = session
    this.#model = model
    this.#output = output
  }

  /**
   * Loads the model and runs it once or twice, so that the first real batch does not pay for first allocations.
   *
   * @throws RankmillError `invalid_model`, `invalid_configuration` (the device is not there), `out_of_memory`
   */
  static async open({ model, device, threads }: ThreadData): Promise<ScoringSession> {
    // What goes wrong is thrown; ONNX Runtime's own lines on standard error would only say it twice.
    env.logLevel = 'fatal'
    let session: InferenceSession
    try {
      session = await InferenceSession.create(model.modelPath, {
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
      throw startError(cause, model, device)
    }
    const wanted = model.kind === 'bi-encoder' ? model.output : 'logits'
    const output = session.outputNames.includes(wanted) ? wanted : session.outputNames[0]
    if (output === undefined) throw new RankmillError('invalid_model', `${model.modelPath}: the graph has no output`)
    const scoring = new ScoringSession(session, model, output)
    await scoring.#warmUp()
    return scoring
  }

  /**
   * @returns [size] logits; of a head with two, logit 1 minus logit 0 (a softmax over two is the sigmoid of the difference);
   *   of a bi-encoder [size, dimensions] embeddings
   * @throws RankmillError `inference_failed`, `out_of_memory`
   */
  async run({ size, length, inputIds, attentionMask, tokenTypeIds }: Batch): Promise<Float32Array> {
    const dims = [size, length]
    const feeds: Record<string, Tensor> = {
      input_ids: new Tensor('int64', inputIds, dims),
      attention_mask: new Tensor('int64', attentionMask, dims),
    }
    if (this.#model.usesTokenTypes) {
      feeds.token_type_ids = new Tensor('int64', tokenTypeIds ?? new BigInt64Array(size * length), dims)
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
      const message = messageOf(cause)
      throw new RankmillError(isOutOfMemory(message) ? 'out_of_memory' : 'inference_failed', message, {}, { cause })
    }
    if (this.#model.kind === 'bi-encoder') {
      const vectors = pooled ? values : poolTokens(values, attentionMask, size, length, this.#model.pooling)
      return normaliseRows(vectors, size)
    }
    const { logits: width } = this.#model
    if (values.length !== size * width) {
      const shape = `${values.length} numbers for ${size} pairs`
      throw new RankmillError('inference_failed', `the model gave ${shape}, where ${width} each were expected`)
    }
    const logits =
      width === 1
        ? values
        : Float32Array.from({ length: size }, (_, i) => (values[2 * i + 1] ?? 0) - (values[2 * i] ?? 0))
    // A score that is no number cannot be ranked, and would spoil the order of all others.
    if (!logits.every(Number.isFinite))
      throw new RankmillError('inference_failed', 'the model gave a score that is not a finite number')
    return logits
  }

  /** Frees the session's memory. */
  release(): Promise<void> {
    return this.#session.release()
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

function startError(cause: unknown, model: Model | BiEncoderModel, device: string): RankmillError {
  const message = messageOf(cause)
  if (isOutOfMemory(message)) return new RankmillError('out_of_memory', `${model.modelPath}: ${message}`, {}, { cause })
  const missing = /ExecutionProvider|execution provider|Failed to load (shared )?library|backend not found|webgpu|CUDA/i
  if (device !== 'cpu' && missing.test(message)) {
    const text = `device: "${device}" cannot be used on this machine (${message.split('\n')[0]?.trim() ?? ''})`
    return new RankmillError('invalid_configuration', text, { param: 'device' }, { cause })
  }
  return new RankmillError('invalid_model', `${model.modelPath}: ${message}`, {}, { cause })
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
