/**
 * Whether a device scores as the CPU does. A driver may compute quickly and wrongly: on a software WebGPU one of the models
 * that ship was off by 0.6 at 64 tokens, and right at 20. Nobody would notice, so it is asked before the first job.
 */
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoderModel } from '../model/bi-encoder-model.js'
import type { Model } from '../model/model.js'
import { syntheticBatch } from './calibration.js'
import type { EngineOptions } from './engine.js'
import { SessionProcess } from './session-process.js'

const LENGTHS = [24, 64, 200]
const PAIRS = 2
/** Of a logit, or of its size where that is above 1: rounding stays far below, a wrong kernel far above. */
const TOLERANCE = { fp32: 0.01, fp16: 0.1, int8: 0.15, int4: 0.15 } as const

/** @throws RankmillError `invalid_configuration` where the scores are others */
export async function checkAgreement(
  model: Model | BiEncoderModel,
  onDevice: SessionProcess,
  { device, threads, callTimeoutMs, log }: EngineOptions,
): Promise<void> {
  const settings = { model, device: 'cpu', threads, callTimeoutMs, prefixCacheBytes: 0 } as const
  const onCpu = await SessionProcess.start(settings, log)
  try {
    for (const length of LENGTHS.filter((tokens) => tokens <= model.maxTokens)) {
      const [expected, found] = [
        await onCpu.run(syntheticBatch(PAIRS, length)),
        await onDevice.run(syntheticBatch(PAIRS, length)),
      ]
      const off = expected.logits.map(
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
