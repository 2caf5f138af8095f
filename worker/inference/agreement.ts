/**
 * Whether a device scores as the CPU does. A driver may compute quickly and wrongly: on a software WebGPU attention is wrong
 * from 32 tokens on, and right below (bench/gpu.md). Nobody would notice, so it is asked before the first job, and what was
 * found right is remembered: loading the model on the CPU as well is most of a start.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { seededRandom } from '../../shared/random.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import { writeWhole } from '../model/bound-files.js'
import type { Model } from '../model/model.js'
import type { Batch, BatchOutput, EngineOptions } from './engine.js'
import { SessionProcess } from './session-process.js'

const LENGTHS = [24, 64, 200]
const PAIRS = 2
/**
 * Token ids are below the first of these that the model knows. Words of a whole vocabulary: those that come first in it were
 * seldom trained, attention to them is even, and what is wrong with it averages out.
 */
const VOCABULARIES = [20_000, 90]
/**
 * Of a logit, or of its size where that is above 1: rounding stays far below, that of CUDA's fp32 with its 10 bits of TF32 too;
 * the one wrong kernel that was met was off by 0.07.
 */
const TOLERANCE = { fp32: 0.02, fp16: 0.1, int8: 0.15, int4: 0.15 } as const
/** As long as calibration: what else a driver depends on is not all seen. */
const KEPT_MS = 30 * 86_400_000
const FOLDER = 'agreement'
/** Version of what is asked and kept. */
const VERSION = 1
/** NVIDIA's driver says here which it is and which GPUs it has. */
const NVIDIA = '/proc/driver/nvidia'
/** What chooses a driver or a GPU of several. */
const CHOOSING = [
  'VK_DRIVER_FILES',
  'VK_ICD_FILENAMES',
  'VK_ADD_DRIVER_FILES',
  'CUDA_VISIBLE_DEVICES',
  'NVIDIA_VISIBLE_DEVICES',
]

const keptSchema = z.object({ model: z.string(), dtype: z.string(), device: z.string(), checkedAt: z.number() })

/**
 * Asks, unless the same model was right on the same device with the same driver and ONNX Runtime within a month. A wrong one
 * is asked again each time, for its driver may have been mended.
 *
 * @throws RankmillError `invalid_configuration` where the scores are others
 */
export async function checkAgreement(
  model: Model | BiEncoderModel,
  onDevice: { run(batch: Batch): Promise<BatchOutput> },
  options: EngineOptions,
  now: () => number = Date.now,
): Promise<void> {
  const { device, cacheDir } = options
  const file = join(cacheDir, FOLDER, `${await keyOf(model, device)}.json`)
  if (await isKept(file, now())) return
  await compare(model, onDevice, options)
  await writeWhole(file, JSON.stringify({ model: model.name, dtype: model.dtype, device, checkedAt: now() }))
}

async function compare(
  model: Model | BiEncoderModel,
  onDevice: { run(batch: Batch): Promise<BatchOutput> },
  { device, threads, callTimeoutMs, log }: EngineOptions,
): Promise<void> {
  const settings = { model, device: 'cpu', threads, callTimeoutMs, prefixCacheBytes: 0 } as const
  const onCpu = await SessionProcess.start(settings, log)
  try {
    for (const length of LENGTHS.filter((tokens) => tokens <= model.maxTokens)) {
      const { batch, logits } = await scoredOn(onCpu, length, model)
      const found = await onDevice.run(batch)
      const off = logits.map(
        (logit, i) => Math.abs((found.logits[i] ?? Number.NaN) - logit) / Math.max(1, Math.abs(logit)),
      )
      // NaN is no agreement either.
      if (off.every((share) => share <= TOLERANCE[model.dtype])) continue
      const most = Math.max(...off).toFixed(3)
      const message = `device: "${device}" scores ${model.name} ${model.dtype} otherwise than the CPU (off by ${most} at ${length} tokens), so it is not used; update its driver, or --device cpu`
      throw new RankmillError('invalid_configuration', message, { param: 'device' })
    }
  } finally {
    await onCpu.close()
  }
}

/** A batch that the model takes, and the CPU's scores of it. */
async function scoredOn(
  onCpu: SessionProcess,
  length: number,
  { usesTokenTypes }: Model | BiEncoderModel,
): Promise<{ batch: Batch; logits: Float32Array }> {
  let refused: unknown
  // Some models take token types and know one kind.
  for (const words of VOCABULARIES)
    for (const withTypes of usesTokenTypes ? [true, false] : [false]) {
      const batch = pairsOf(words, length, withTypes)
      try {
        return { batch, logits: (await onCpu.run(batch)).logits }
      } catch (error) {
        refused = error
      }
    }
  throw refused
}

/** Pairs of a query and a passage three times as long, of words drawn the same way every time. */
function pairsOf(words: number, length: number, withTypes: boolean): Batch {
  const random = seededRandom(1)
  const inputIds = BigInt64Array.from({ length: PAIRS * length }, () => BigInt(1 + Math.floor(random() * (words - 1))))
  const tokenTypeIds = withTypes
    ? BigInt64Array.from({ length: PAIRS * length }, (_, i) => (i % length < length / 4 ? 0n : 1n))
    : null
  return { size: PAIRS, length, inputIds, attentionMask: new BigInt64Array(PAIRS * length).fill(1n), tokenTypeIds }
}

/** Of everything that is seen of what the scores depend on. */
async function keyOf(model: Model | BiEncoderModel, device: string): Promise<string> {
  const runtime = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }
  const chosen = CHOOSING.map((name) => process.env[name] ?? null)
  const conditions = [VERSION, model.fingerprint, model.dtype, device, runtime.version, cpus()[0]?.model ?? '']
  const seen = JSON.stringify([...conditions, chosen, await nvidia()])
  return createHash('sha256').update(seen).digest('hex').slice(0, 32)
}

/** Its driver's version and its GPUs' names; none of other makers and systems. */
async function nvidia(): Promise<string[]> {
  const gpus = (await readdir(join(NVIDIA, 'gpus')).catch(() => [])).sort()
  const files = [join(NVIDIA, 'version'), ...gpus.map((gpu) => join(NVIDIA, 'gpus', gpu, 'information'))]
  return await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')))
}

async function isKept(file: string, now: number): Promise<boolean> {
  try {
    const { checkedAt } = keptSchema.parse(JSON.parse(await readFile(file, 'utf8')))
    return checkedAt <= now && now < checkedAt + KEPT_MS
  } catch {
    return false
  }
}
