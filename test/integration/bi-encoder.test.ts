/** Bi-encoders: what is read of a folder, and embeddings against those that Python's onnxruntime gave. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { RankmillError } from '../../shared/errors.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { Batcher } from '../../worker/batching/batcher.js'
import { BiEncoder } from '../../worker/bi-encoder.js'
import type { InferenceEngine } from '../../worker/inference/engine.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { openBiEncoder } from '../../worker/model/bi-encoder-model.js'
import { EmbeddingCache } from '../../worker/pipeline/embedding-cache.js'
import { LocalTexts } from '../../worker/text/local-texts.js'
import { loadTokenizer } from '../../worker/tokenize/tokenizer.js'
import { copyOf, goldenEmbeddings, temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'
import { useStage } from './stage.js'

const stage = useStage()
const candidatesOf = (texts: readonly string[]) => texts.map((text, index) => ({ index, document: { text } }))
const never = new AbortController().signal
const ordinary = { priority: 0, deadlineAt: null }
const open: BiEncoder[] = []
const quiet = { info: () => undefined, warn: () => undefined }

afterEach(async () => {
  await Promise.all(open.splice(0).map((encoder) => encoder.close()))
})

const openModel = async (folder: string) =>
  openBiEncoder(folder, { dtype: 'auto', device: 'cpu', cacheDir: await temporaryFolder(), allowHub: false })

/** Counts the texts that go through the model. */
async function openEncoder(cache: EmbeddingCache | undefined, folder = tinyModel('bi-encoder'), poison = -1) {
  const model = await openModel(folder)
  const engine = await createEngine(model, {
    device: 'cpu',
    threads: 2,
    calibrate: false,
    callTimeoutMs: 60_000,
    cacheDir: model.folder,
    log: quiet,
    batchPairs: 3,
  })
  let embedded = 0
  const counting: InferenceEngine = {
    slots: engine.slots,
    sessions: engine.sessions,
    shape: engine.shape,
    run: async (batch) => {
      if (batch.inputIds.includes(BigInt(poison))) throw new RankmillError('inference_failed', 'poison')
      embedded += batch.size
      return await engine.run(batch)
    },
    busyRatio: () => engine.busyRatio(),
    close: () => engine.close(),
  }
  const { maxTokens, padId, usesTokenTypes: withTypes } = model
  const limits = { maxEntryAgeMs: 10_000, now: Date.now, observe: () => undefined }
  const encoder = new BiEncoder({
    model,
    engine: counting,
    batcher: new Batcher(counting, { padId, withTypes, ...limits }),
    texts: new LocalTexts(loadTokenizer),
    ownsTexts: true,
    encoder: { folder, maxTokens, truncation: 'longest_first', cacheTokens: 0 },
    cache,
  })
  open.push(encoder)
  return { encoder, embedded: () => embedded }
}

async function edit(folder: string, name: string, change: object): Promise<void> {
  const value = await readFile(join(folder, name), 'utf8').then(JSON.parse, () => ({}))
  await writeFile(join(folder, name), JSON.stringify({ ...value, ...change }))
}

describe('a bi-encoder', () => {
  it('gives the embeddings that sentence-transformers would, alone and among others', async () => {
    const { encoder } = await openEncoder(undefined)
    const { texts, embeddings } = goldenEmbeddings()
    const together = await encoder.embed(texts, ordinary, never)
    for (const [i, text] of texts.entries()) {
      const [alone] = await encoder.embed([text], ordinary, never)
      expect(alone).toEqual(together[i])
      for (const [d, value] of embeddings[i]!.entries()) expect(together[i]![d]).toBeCloseTo(value, 5)
    }
  })

  it('scores by the cosine', async () => {
    const { encoder } = await openEncoder(undefined)
    const { texts, embeddings } = goldenEmbeddings()
    const scores = (await encoder.score(texts[0]!, candidatesOf(texts), ordinary, never)).scores
    for (const [i, score] of Array.from(scores).entries()) {
      expect(score).toBeCloseTo(
        embeddings[i]!.reduce((sum, value, d) => sum + value * embeddings[0]![d]!, 0),
        2,
      )
    }
  })

  it('embeds each text once as long as its cache holds it, and no more than that', async () => {
    const local = (embeddingCacheBytes: number) =>
      new EmbeddingCache(
        [{ index: 0, count: 1, redis: stage().redis, keys: keysOf(stage().prefix, 'q') }],
        { embeddingCacheBytes, embeddingCacheTtlMs: 0, sharedEmbeddingCacheEntries: 0 },
        Date.now,
      )
    const { encoder, embedded } = await openEncoder(local(1e6))
    const texts = Array.from({ length: 50 }, (_, i) => `job ${i % 20}`)
    const first = await encoder.passages(texts, ordinary, never)
    expect(embedded()).toBe(20)
    expect(await encoder.passages(texts, ordinary, never)).toEqual({ ...first, computed: 0 })
    expect(embedded()).toBe(20)
    const { encoder: forgetful, embedded: again } = await openEncoder(local(1000))
    expect(await forgetful.passages(texts, ordinary, never)).toEqual(first)
    await forgetful.passages(texts, ordinary, never)
    expect(again()).toBeGreaterThan(30)
    expect(await stage().keys()).toEqual([])
  })

  it('names the one text that cannot be embedded, and fails nobody else', async () => {
    const folder = tinyModel('bi-encoder')
    const { ids } = (await loadTokenizer(folder)).encode('redis', 1)
    const { encoder } = await openEncoder(undefined, folder, ids[0])
    const texts = Array.from({ length: 300 }, (_, i) => (i === 277 ? 'redis' : `job ${i % 150}`))
    const others = encoder.passages(texts.slice(0, 200), ordinary, never)
    const scoring = encoder.score('job', candidatesOf(texts), ordinary, never)
    await expect(scoring).rejects.toMatchObject({
      code: 'inference_failed',
      message: 'documents.277: poison',
      details: { index: 277, param: 'documents.277' },
    })
    expect((await others).computed).toBe(150)
    await expect(encoder.score('redis', candidatesOf(['job']), ordinary, never)).rejects.toMatchObject({
      message: 'query: poison',
      details: { param: 'query' },
    })
  })

  it('stops when nobody wants its scores any more', async () => {
    const { encoder, embedded } = await openEncoder(undefined)
    const stop = new AbortController()
    const texts = Array.from({ length: 3000 }, (_, i) => `job ${i} ${'queue '.repeat(i % 40)}`)
    const scoring = encoder.score('job', candidatesOf(texts), ordinary, stop.signal)
    setImmediate(() => stop.abort(new Error('no longer wanted')))
    await expect(scoring).rejects.toThrow('no longer wanted')
    expect(embedded()).toBeLessThan(3000)
  })
})

describe('a folder', () => {
  it('says how tokens are pooled, how long a text may be, and what goes before it', async () => {
    expect(await openModel(tinyModel('bi-encoder'))).toMatchObject({
      kind: 'bi-encoder',
      output: 'last_hidden_state',
      pooling: 'mean',
      maxTokens: 48,
      prompts: { query: '', passage: '' },
      usesTokenTypes: true,
    })
    const folder = await copyOf('bi-encoder')
    await edit(folder, '1_Pooling/config.json', { pooling_mode_mean_tokens: false, pooling_mode_cls_token: true })
    await edit(folder, 'config_sentence_transformers.json', { prompts: { query: 'query: ', document: 'passage: ' } })
    await rm(join(folder, 'sentence_bert_config.json'))
    expect(await openModel(folder)).toMatchObject({
      pooling: 'cls',
      maxTokens: 64,
      prompts: { query: 'query: ', passage: 'passage: ' },
    })
    const { encoder } = await openEncoder(undefined, folder)
    const { encoder: plain } = await openEncoder(undefined)
    expect(await encoder.embed(['the job'], ordinary, never)).not.toEqual(
      await plain.embed(['the job'], ordinary, never),
    )
  })

  it('is refused where it is no bi-encoder, naming the file', async () => {
    await expect(openModel(tinyModel('one-logit'))).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/model\.onnx.*"logits".*not that of a bi-encoder/),
    })
    const folder = await copyOf('bi-encoder')
    await edit(folder, '1_Pooling/config.json', { pooling_mode_mean_tokens: false, pooling_mode_max_tokens: true })
    await expect(openModel(folder)).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/1_Pooling.config\.json.*pooling/),
    })
  })
})
