/** Pairs a second of a device: a bare session, Rankmill's engine on the same batches, and from texts to scores. */
import { availableParallelism } from 'node:os'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { syntheticBatch } from '../../worker/inference/calibration.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { measureSpeed } from '../../worker/inference/speed.js'
import type { Device, Dtype, Model } from '../../worker/model/model.js'
import { batcherOf, encoded, engineOptions, open, row } from './scoring.js'
import { LENGTHS, type Pairs, readTexts } from './texts.js'

/** A bare session in this process, then Rankmill's engine with one and two sessions, on the same batches; then its texts. */
export async function measureDevice(
  device: Device,
  dtype: Dtype,
  folder: string,
  textsFile: string,
  rest: string[],
): Promise<void> {
  const [ms = '300', budgets = '16384,65536', lengths = LENGTHS.join(',')] = rest
  const model = await open(folder, dtype, device)
  const named = { model: model.name.split('/').at(-1), dtype, device }
  const batches = lengths.split(',').map((tokens) => ({
    tokens: Number(tokens),
    counts: budgets.split(',').map((budget) => Math.max(1, Math.floor(Number(budget) / Number(tokens)))),
  }))
  const best = new Map<string, { pairsPerCall: number; pairsPerSecond: number }>()
  const measured = async (what: string, sessions: number, rate: (size: number, length: number) => Promise<number>) => {
    for (const { tokens, counts } of batches) {
      for (const pairsPerCall of counts) {
        try {
          const found = { pairsPerCall, pairsPerSecond: Number((await rate(pairsPerCall, tokens)).toFixed(1)) }
          const key = `${what} ${sessions} ${tokens}`
          if (found.pairsPerSecond > (best.get(key)?.pairsPerSecond ?? 0)) best.set(key, found)
        } catch (error) {
          console.error(`${what} ${named.model} ${dtype} ${pairsPerCall} x ${tokens}: ${(error as Error).message}`)
        }
      }
      const found = best.get(`${what} ${sessions} ${tokens}`)
      if (found) row({ what, ...named, tokens, sessions, ...found })
    }
  }
  // A causal graph takes more than tokens.
  if (!model.causal) await bare(model, device, Number(ms), (rate) => measured('bare', 1, rate))
  const onCpu = device === 'cpu' ? { sessions: Math.min(2, availableParallelism()) } : {}
  for (const sessions of device === 'cpu' ? [onCpu.sessions ?? 1] : [1, 2]) {
    const engine = await createEngine(model, engineOptions(device, { sessions }))
    try {
      const rate = async (size: number, length: number) =>
        (await measureSpeed(engine, size, length, Number(ms), () => performance.now())).pairsPerSecond
      await measured('engine', sessions, rate)
    } finally {
      await engine.close()
    }
  }
  if (!model.causal) await fromTexts(model, device, textsFile, batches, best)
}

/** Calls of one ONNX Runtime session, one after the other, with tensors made before: what the provider itself gives. */
async function bare(
  model: Model,
  device: Device,
  ms: number,
  measured: (rate: (size: number, length: number) => Promise<number>) => Promise<void>,
): Promise<void> {
  const session = await InferenceSession.create(model.modelPath, { executionProviders: [device], logSeverityLevel: 4 })
  await measured(async (size, length) => {
    const { inputIds, attentionMask } = syntheticBatch(size, length)
    const all = { input_ids: inputIds, attention_mask: attentionMask, token_type_ids: new BigInt64Array(size * length) }
    const feeds: Record<string, Tensor> = {}
    for (const [name, ids] of Object.entries(all))
      if (session.inputNames.includes(name)) feeds[name] = new Tensor('int64', ids, [size, length])
    await session.run(feeds)
    const startedAt = performance.now()
    let calls = 0
    for (; calls === 0 || performance.now() - startedAt < ms; calls++) await session.run(feeds)
    return (calls * size) / ((performance.now() - startedAt) / 1000)
  })
  await session.release()
}

/** Texts to scores in one process, tokenising counted, in the best shape that was found: what sentence-transformers is asked for. */
async function fromTexts(
  model: Model,
  device: Device,
  textsFile: string,
  batches: readonly { tokens: number; counts: number[] }[],
  best: ReadonlyMap<string, { pairsPerCall: number; pairsPerSecond: number }>,
): Promise<void> {
  const texts = await readTexts(textsFile)
  for (const { tokens } of batches) {
    const pairs = texts[tokens]
    const [one, two] = [best.get(`engine 1 ${tokens}`), best.get(`engine 2 ${tokens}`)]
    if (!pairs || !(one ?? two)) continue
    const sessions = (two?.pairsPerSecond ?? 0) > (one?.pairsPerSecond ?? 0) ? 2 : 1
    const pairsPerCall = (sessions === 2 ? two : one)?.pairsPerCall ?? 1
    const shape = { sessions, batchPairs: pairsPerCall, batchTokens: pairsPerCall * (tokens + 8) }
    const engine = await createEngine(model, engineOptions(device, shape))
    try {
      const batcher = batcherOf(engine, model)
      const score = async (some: Pairs) =>
        batcher.score({
          pairs: await encoded(model, some),
          priority: 0,
          deadlineAt: null,
          signal: AbortSignal.timeout(60_000),
        })
      const { logits } = await score(pairs.slice(0, pairsPerCall * engine.slots))
      const startedAt = performance.now()
      await score(pairs)
      const pairsPerSecond = Number((pairs.length / ((performance.now() - startedAt) / 1000)).toFixed(1))
      const scores = [...logits.slice(0, 8)].map((logit) => Number(logit.toFixed(5)))
      row({
        what: 'texts',
        model: model.name.split('/').at(-1),
        dtype: model.dtype,
        device,
        tokens,
        sessions,
        pairsPerCall,
        pairsPerSecond,
        scores,
      })
    } finally {
      await engine.close()
    }
  }
}
