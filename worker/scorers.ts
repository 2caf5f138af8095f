/** The models that a worker serves, each with its encoder, its sessions and its batcher; loaded when first needed. */
import { createHash } from 'node:crypto'
import type { WorkerMetrics } from '../monitoring/metrics.js'
import { RankmillError } from '../shared/errors.js'
import type { Logger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import { fullName, servedModels } from '../shared/protocol/pool.js'
import type { Prefilter } from '../shared/protocol/strategy.js'
import { Batcher } from './batching/batcher.js'
import type { BiEncoder } from './bi-encoder.js'
import type { InferenceEngine } from './inference/engine.js'
import type { Model } from './model/model.js'
import type { EmbeddingCache } from './pipeline/embedding-cache.js'
import { fusedFilter } from './pipeline/fused-filter.js'
import { bm25Filter, FIRST_STAGE, type Filter } from './pipeline/prefilter.js'
import type { Scorer } from './pipeline/scorer.js'
import type { EncoderSettings, TextRunner } from './text/text-tasks.js'
import type { Tokenizer } from './tokenize/tokenizer.js'

/** How models come into being: real ones, or fakes in speed tests of the queue. */
export interface ScorerSource {
  openModel(reference: string, dtype: Options['dtype']): Promise<Model>
  loadTokenizer(model: Model): Promise<Tokenizer>
  createEngine(model: Model): Promise<InferenceEngine>
  /** Who works on texts, for all models of a worker. */
  openTexts(now: () => number): TextRunner
  /** A bi-encoder, loaded. */
  openFilter(reference: string, parts: FilterParts): Promise<BiEncoder>
}

/** What a bi-encoder is given to work with. */
export interface FilterParts {
  readonly cache: EmbeddingCache | undefined
  readonly texts: TextRunner
  readonly ownsTexts: boolean
  readonly now: () => number
}

export class Scorers {
  readonly #source: ScorerSource
  readonly #options: Options
  readonly #embeddings: EmbeddingCache
  readonly #metrics: WorkerMetrics
  readonly #log: Logger
  readonly #now: () => number
  readonly #texts: TextRunner
  /** Filters that are there without a model. */
  readonly #plainFilters: readonly Filter[]
  readonly #loading = new Map<string, Promise<Scorer>>()
  /** The same, by what was asked for and what that came to: `auto` and a number format may be one. */
  readonly #bySpace = new Map<string, Promise<Scorer>>()
  readonly #loaded = new Set<Scorer>()
  /** Names that requests may use -> what the model is opened by. */
  readonly #served: ReadonlyMap<string, string>
  readonly #servedFilters: ReadonlyMap<string, string>
  readonly #filters = new Map<string, Promise<BiEncoder>>()
  readonly #openFilters = new Set<BiEncoder>()

  constructor(
    source: ScorerSource,
    options: Options,
    embeddings: EmbeddingCache,
    metrics: WorkerMetrics,
    log: Logger,
    now: () => number,
  ) {
    this.#source = source
    this.#options = options
    this.#embeddings = embeddings
    this.#metrics = metrics
    this.#log = log
    this.#now = now
    this.#texts = source.openTexts(now)
    this.#plainFilters = [bm25Filter(this.#texts), FIRST_STAGE]
    this.#served = servedModels(options.model)
    this.#servedFilters = servedModels(options.filter)
  }

  /** The models in use. */
  get loaded(): Iterable<Scorer> {
    return this.#loaded
  }

  /** What runs batches: the models, and the filters among them. */
  get running(): Iterable<Pick<Scorer, 'batcher' | 'engine'> & { readonly model: { readonly name: string } }> {
    return [...this.#loaded, ...this.#openFilters]
  }

  /** The names of the models that this worker serves, the default first. */
  get names(): string[] {
    return [...this.#served.keys()]
  }

  /** The names of the bi-encoders that it serves. */
  get filterNames(): string[] {
    return [...this.#servedFilters.keys()]
  }

  /**
   * @param name null for the default model
   * @param param the field of the request that names it
   * @throws RankmillError `unknown_model` when the worker does not serve it
   */
  get(name: string | null, dtype: Options['dtype'], param = 'model'): Promise<Scorer> {
    const wanted = name ?? this.names[0] ?? ''
    const reference = this.#served.get(fullName(wanted))
    if (reference === undefined) {
      const message = `${param}: "${wanted}" is not served here; served: ${this.names.join(', ')}`
      return Promise.reject(new RankmillError('unknown_model', message, { param }))
    }
    const type = dtype === 'auto' ? this.#options.dtype : dtype
    const key = `${reference} ${type}`
    const known = this.#loading.get(key)
    if (known) return known
    const loading = this.#load(reference, type, fullName(wanted))
    this.#loading.set(key, loading)
    // What failed may work later, when the model's files are complete.
    loading.catch(() => this.#loading.delete(key))
    return loading
  }

  /**
   * What `strategy.prefilter` may name: `bm25`, `first-stage`, the bi-encoders of the option `filter`, and several of
   * them with `+` between, which are fused.
   *
   * @throws RankmillError `unknown_model` when the worker does not serve it, `invalid_request` when one comes twice; what
   *   opening it throws
   */
  async filter(name: string, by: Prefilter['by'] = 'rank'): Promise<Filter> {
    const known = this.#plainFilters.find((filter) => filter.name === name)
    if (known) return known
    const full = fullName(name)
    const parts = name.split('+')
    if (parts.length > 1 && !this.#servedFilters.has(full)) {
      if (new Set(parts.map(fullName)).size < parts.length) {
        const message = `strategy.prefilter.model: "${name}" names a filter twice`
        throw new RankmillError('invalid_request', message, { param: 'strategy.prefilter.model' })
      }
      return fusedFilter(await Promise.all(parts.map((part) => this.filter(part))), by)
    }
    const reference = this.#servedFilters.get(full)
    if (reference === undefined) {
      const served = [...this.#plainFilters.map((filter) => filter.name), ...this.#servedFilters.keys()].join(', ')
      const message = `strategy.prefilter.model: "${name}" is not served here; served: ${served}`
      throw new RankmillError('unknown_model', message, { param: 'strategy.prefilter.model' })
    }
    let opening = this.#filters.get(full)
    if (!opening) {
      const parts = { cache: this.#embeddings, texts: this.#texts, ownsTexts: false, now: this.#now }
      opening = this.#source.openFilter(reference, parts)
      this.#filters.set(full, opening)
      opening.then(
        (filter) => this.#openFilters.add(filter),
        () => this.#filters.delete(full),
      )
    }
    const biEncoder = await opening
    return { name: full, readsTexts: false, context: biEncoder.context, score: (...what) => biEncoder.score(...what) }
  }

  async close(): Promise<void> {
    for (const scorer of this.#loaded) scorer.batcher.close()
    await Promise.allSettled([
      ...[...this.#loaded].map((scorer) => scorer.engine.close()),
      ...[...this.#filters.values()].map(async (filter) => (await filter).close()),
    ])
    await this.#texts.close()
    this.#loaded.clear()
    this.#openFilters.clear()
    this.#loading.clear()
    this.#bySpace.clear()
    this.#filters.clear()
  }

  async #load(reference: string, dtype: Options['dtype'], name: string): Promise<Scorer> {
    const startedAt = performance.now()
    const opened = await this.#source.openModel(reference, dtype)
    // One that is served under a name of its own goes by it.
    const model: Model = name === fullName(reference) ? opened : { ...opened, name }
    const space = `${reference} ${model.fingerprint}`
    const known = this.#bySpace.get(space)
    if (known) return known
    const starting = this.#start(model, name, startedAt)
    this.#bySpace.set(space, starting)
    starting.catch(() => this.#bySpace.delete(space))
    return starting
  }

  async #start(model: Model, name: string, startedAt: number): Promise<Scorer> {
    const { truncation, tokenCacheTokens, maxEntryAgeMs } = this.#options
    const maxTokens = Math.min(this.#options.maxTokens || model.maxTokens, model.maxTokens)
    const windows = { maxWindows: this.#options.maxWindows, overlap: this.#options.windowOverlapPercent / 100 }
    const encoder: EncoderSettings = {
      folder: model.folder,
      savedAs: 'CrossEncoder',
      files: model.files ?? [],
      queryPrompt: model.queryPrompt ?? '',
      ...(model.prompt ? { prompt: model.prompt } : {}),
      maxTokens,
      truncation,
      cacheTokens: tokenCacheTokens,
    }
    const signal = new AbortController().signal
    const opening = this.#texts.run({ kind: 'open', encoder }, { priority: 0, deadlineAt: null }, signal)
    opening.catch(() => undefined)
    const engine = await this.#source.createEngine(model)
    await opening.catch(async (error) => {
      await engine.close()
      throw error
    })
    const metrics = this.#metrics
    const scorer: Scorer = {
      name,
      model,
      engine,
      texts: this.#texts,
      encoder,
      batcher: new Batcher(engine, {
        padId: model.padId,
        withTypes: model.usesTokenTypes,
        carries: model.exits.map(({ carries }) => carries),
        maxEntryAgeMs,
        now: this.#now,
        observe: ({ pairs, tokens, paddedTokens }) => {
          metrics.batchPairs.observe(pairs)
          metrics.batchTokens.observe(tokens)
          metrics.batchPaddingRatio.observe(1 - tokens / paddedTokens)
        },
      }),
      windows,
      space: spaceOf([model.fingerprint, model.dtype, maxTokens, truncation, windows]),
      context: (maxTokensPerDoc, longDocuments, exit) => ({
        modelFingerprint: model.fingerprint,
        maxTokens,
        truncation,
        maxTokensPerDoc,
        longDocuments: longDocuments === 'windows' ? { windows } : longDocuments,
        ...(exit ? { exit: { fingerprint: exit.fingerprint, calibration: exit.calibration } } : {}),
      }),
      activate: model.activation === 'sigmoid' ? (logit) => 1 / (1 + Math.exp(-logit)) : (logit) => logit,
    }
    this.#loaded.add(scorer)
    metrics.modelInfo.set({ model: model.name, dtype: model.dtype, device: engine.device ?? this.#options.device }, 1)
    const { sessions, threadsPerSession, batchPairs } = engine.shape
    this.#log.info(
      {
        model: model.name,
        dtype: model.dtype,
        device: engine.device,
        sessions,
        threadsPerSession,
        batchPairs,
        ms: Math.round(performance.now() - startedAt),
      },
      'model loaded',
    )
    return scorer
  }
}

function spaceOf(parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('base64url').slice(0, 22)
}
