/**
 * Scores that are known already: in this process (the last recently used), then in Redis, shared by all workers. In
 * Redis there is one hash for each model and query, one field a passage: a request costs one HMGET, and small hashes
 * are stored by Redis as compact lists. Nothing is kept longer than `scoreCacheTtlMs`, and of more than
 * `sharedScoreCacheEntries` scores the queries that were written longest ago go.
 */
import { hash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Window } from '../../shared/protocol/result.js'
import { shardOf } from '../../shared/protocol/shards.js'
import type { LongDocuments } from '../../shared/protocol/strategy.js'
import type { Shard } from '../../shared/redis/shards.js'
import type { ModelExit } from '../model/model-exits.js'
import { TimeSlice } from '../time-slice.js'
import type { WindowRule } from '../tokenize/pair-encoder.js'
import { SharedCache, type Shelf } from './shared-cache.js'

/** A document's score, and what there is to say of it. */
export interface KnownScore {
  readonly logit: number
  readonly truncated: boolean
  /** The score is of some of the document's sentences. */
  readonly snippet?: true
  /** The window that won, and how many there were. */
  readonly window?: Window & { readonly count: number }
}

/** What, beside the texts, a score depends on. */
export interface ScoringContext {
  /** Hash of the weights, the tokeniser, the configuration and the number format. */
  readonly modelFingerprint: string
  readonly maxTokens: number
  readonly truncation: string
  readonly maxTokensPerDoc: number | null
  /** Of the request, where it gives one. */
  readonly instruction?: string | undefined
  /** Of the request, where only requests of the same one may know its scores. */
  readonly cacheSpace?: string | undefined
  /** The mode, with what else the mode depends on. */
  readonly longDocuments: LongDocuments | { readonly windows: WindowRule }
  /** Where the model was left, if not at its end: an early score is never taken for a final one. */
  readonly exit?: Pick<ModelExit, 'fingerprint' | 'calibration'>
}

/** One query's pairs with some passages. */
export interface PairKeys {
  /** Redis key of the query's scores; it changes whenever a score could. */
  readonly query: string
  /** The shard that has them, by the query: a pair is found whichever shard its request is in. */
  readonly shard: number
  /** Of each passage its field there, binary. */
  readonly passages: readonly string[]
}

export interface ScoreCacheOptions {
  /** 0 turns the cache off. */
  readonly scoreCacheTtlMs: number
  /** Scores kept in this process; 0 keeps none. */
  readonly localScoreCacheEntries: number
  /** Scores kept in Redis; 0 keeps none there. */
  readonly sharedScoreCacheEntries: number
}

/** float32 logit and one byte of flags; where a window won, its index, start and end and the number of windows. */
const VALUE_BYTES = 5
const WINDOW_VALUE_BYTES = VALUE_BYTES + 16
const TRUNCATED = 1
const SNIPPET = 2
/** 96 bits tell passages of one query apart. */
const FIELD_BYTES = 12

export class ScoreCache {
  readonly #cache: SharedCache<KnownScore>
  readonly #shards: readonly Shard[]
  readonly #ttlMs: number
  readonly #maxShared: number
  #unshared = 0

  constructor(shards: readonly Shard[], options: ScoreCacheOptions) {
    const { scoreCacheTtlMs, localScoreCacheEntries, sharedScoreCacheEntries } = options
    const local =
      scoreCacheTtlMs > 0 && localScoreCacheEntries > 0
        ? new LRUCache<string, KnownScore>({ max: localScoreCacheEntries, ttl: scoreCacheTtlMs })
        : undefined
    const connections = shards.map(({ redis }) => redis)
    this.#cache = new SharedCache(connections, local, { pack, unpack })
    this.#shards = shards
    this.#ttlMs = scoreCacheTtlMs
    this.#maxShared = Math.ceil(sharedScoreCacheEntries / shards.length)
  }

  /** @throws the signal's reason */
  async keysOf(
    context: ScoringContext,
    query: string,
    passages: readonly string[],
    signal: AbortSignal,
  ): Promise<PairKeys> {
    // Without a cache nothing is shared: names that no other job has.
    if (this.#ttlMs === 0) {
      return { query: `unshared ${this.#unshared++}`, shard: 0, passages: passages.map((_, i) => String(i)) }
    }
    const { modelFingerprint, maxTokens, truncation, maxTokensPerDoc, longDocuments, exit } = context
    const { instruction, cacheSpace } = context
    const model = digest(
      JSON.stringify([
        3,
        modelFingerprint,
        maxTokens,
        truncation,
        maxTokensPerDoc,
        longDocuments,
        ...(exit ? [exit.fingerprint, exit.calibration] : []),
        ...(instruction === undefined ? [] : [{ instruction }]),
        ...(cacheSpace === undefined ? [] : [{ cacheSpace }]),
      ]),
    ).toString('base64url')
    const fields: string[] = []
    const slice = new TimeSlice()
    for (const passage of passages) {
      fields.push(fieldOf(passage))
      if (slice.isOver) await slice.pause(signal)
    }
    const queryHash = digest(query).toString('base64url')
    const shard = shardOf(queryHash, this.#shards.length)
    return { query: this.#at(shard).keys.scores(model, queryHash), shard, passages: fields }
  }

  /** Name of a single pair, the same for the same pair in whatever request. */
  pairOf({ query, passages }: PairKeys, place: number): string {
    return `${query} ${passages[place]}`
  }

  /** Known scores, in the order of the passages. */
  read(keys: PairKeys): Promise<(KnownScore | undefined)[]> {
    return this.#cache.read(this.#shelf(keys), keys.passages)
  }

  /** Fills in what this process knows, at once. */
  recall(keys: PairKeys, scores: (KnownScore | undefined)[]): void {
    keys.passages.forEach((field, place) => {
      scores[place] ??= this.#cache.recall({ name: keys.query }, field)
    })
  }

  /** Keeps a score in this process, at once. */
  remember(keys: PairKeys, place: number, score: KnownScore): void {
    this.#cache.remember({ name: keys.query }, keys.passages[place] ?? '', score)
  }

  /** Shares scores with the other workers, by the passages' places. */
  write(keys: PairKeys, scores: ReadonlyMap<number, KnownScore>): Promise<void> {
    const byField = new Map([...scores].map(([place, score]) => [keys.passages[place] ?? '', score]))
    return this.#cache.write(this.#shelf(keys), byField)
  }

  #at(shard: number): Shard {
    return this.#shards[shard] as Shard
  }

  #shelf({ query, shard }: PairKeys): Shelf {
    const isShared = this.#ttlMs > 0 && this.#maxShared > 0
    const { scoresByAge: byAge, scoreCounts: sizes } = this.#at(shard).keys
    return {
      name: query,
      shard,
      hashes: isShared ? [query] : [],
      ttlMs: this.#ttlMs,
      ledger: { byAge, sizes, maxFields: this.#maxShared },
    }
  }
}

function pack({ logit, truncated, snippet, window }: KnownScore): Buffer {
  const value = Buffer.alloc(window ? WINDOW_VALUE_BYTES : VALUE_BYTES)
  value.writeFloatLE(logit, 0)
  value[4] = (truncated ? TRUNCATED : 0) | (snippet ? SNIPPET : 0)
  const numbers = window ? [window.index, window.start, window.end, window.count] : []
  for (const [i, number] of numbers.entries()) value.writeUInt32LE(number, VALUE_BYTES + 4 * i)
  return value
}

function unpack(value: Buffer): KnownScore | undefined {
  if (value.length !== VALUE_BYTES && value.length !== WINDOW_VALUE_BYTES) return undefined
  const flags = value[4] ?? 0
  const at = (i: number) => value.readUInt32LE(VALUE_BYTES + 4 * i)
  return {
    logit: value.readFloatLE(0),
    truncated: (flags & TRUNCATED) !== 0,
    ...(flags & SNIPPET ? { snippet: true } : {}),
    ...(value.length === WINDOW_VALUE_BYTES
      ? { window: { index: at(0), start: at(1), end: at(2), count: at(3) } }
      : {}),
  }
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer').subarray(0, 18)
}

function fieldOf(passage: string): string {
  return hash('sha256', passage, 'buffer').toString('latin1', 0, FIELD_BYTES)
}
