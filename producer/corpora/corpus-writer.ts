/**
 * Changes of corpora in Redis. What is written goes to a layer that nobody sees, and becomes the corpus's new version in
 * one step at the end; a writer that is killed leaves a layer that expires. Memory: a sample of two megabytes and a few
 * chunks, whatever the size of the corpus.
 */
import { randomBytes } from 'node:crypto'
import type { Redis } from 'ioredis'
import { Corpora, type CorpusInfo, unknownCorpus } from '../../shared/corpus/corpora.js'
import { checkCorpusName } from '../../shared/corpus/corpus-name.js'
import { isPresent, withLayer } from '../../shared/corpus/manifest.js'
import { layerLost } from '../../shared/corpus/manifest-store.js'
import type { Dictionary } from '../../shared/corpus/text-codec.js'
import { RankmillError } from '../../shared/errors.js'
import type { Keys } from '../../shared/protocol/keys.js'
import { duplicateId, type Passage } from './passage-lines.js'
import { PassagePacker } from './passage-packer.js'

export interface PutOptions {
  /** The passages become the whole corpus; else they are added, and replace those of the same ids. */
  readonly replace?: boolean
  /** Told now and then how many passages were written. */
  readonly onProgress?: (passages: number) => void
  readonly signal?: AbortSignal | undefined
}

export interface ChangeReport extends CorpusInfo {
  /** Passages that were given, or ids that were to be deleted. */
  readonly given: number
  /** By how many passages the corpus grew; negative where it shrank. */
  readonly grown: number
}

/** Passages and bytes of one chunk: one script call in Redis. */
const CHUNK_PASSAGES = 500
const CHUNK_BYTES = 1_000_000
/** Chunks under way at once. */
const CHUNKS_AHEAD = 3
/** A layer whose writer gave no sign for so long is dropped by Redis. */
const LAYER_TTL_MS = 120_000
const RENEW_MS = 20_000

export class CorpusWriter {
  readonly #corpora: Corpora
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    this.#keys = keys
    this.#corpora = new Corpora(redis, keys)
  }

  /**
   * Stores passages as a new version of a corpus, which is made where there is none.
   *
   * @throws RankmillError `invalid_request` for an id that comes twice or where there are no passages; `conflict` when
   *   Redis has dropped what was written before, because its writer stood still for two minutes
   */
  async put(
    name: string,
    passages: AsyncIterable<Passage> | Iterable<Passage>,
    options: PutOptions = {},
  ): Promise<ChangeReport> {
    checkCorpusName(name)
    const before = await this.#passages(name)
    const packer = new PassagePacker(options.replace ? undefined : await this.#corpora.latestDictionary(name))
    const layer = this.#newLayer(name)
    try {
      for await (const { passage, value } of packer.pack(passages)) {
        options.signal?.throwIfAborted()
        if (await layer.add(passage.id, value, passage.source)) options.onProgress?.(layer.given)
      }
      if (layer.given === 0) {
        throw new RankmillError('invalid_request', `corpus "${name}": there are no passages to put`, {
          param: 'corpus',
        })
      }
      await this.#publish(name, layer, options.replace ? 'replace' : 'upsert', packer.dictionary)
    } catch (error) {
      await layer.discard()
      throw error
    }
    return this.#report(name, layer.given, before)
  }

  /**
   * Deletes passages; ids that are not there are passed over.
   *
   * @throws RankmillError `unknown_corpus`; `invalid_request` for an id that comes twice
   */
  async deletePassages(name: string, ids: AsyncIterable<string> | Iterable<string>): Promise<ChangeReport> {
    checkCorpusName(name)
    const { passages: before } = await this.#corpora.info(name)
    const layer = this.#newLayer(name)
    try {
      for await (const id of ids) await layer.add(id, Buffer.alloc(0), 'ids')
      if (layer.given > 0) await this.#publish(name, layer, 'delete', undefined)
    } catch (error) {
      await layer.discard()
      throw error
    }
    return this.#report(name, layer.given, before)
  }

  #newLayer(name: string): NewLayer {
    const id = randomBytes(9).toString('base64url')
    return new NewLayer(this.#corpora, name, id, this.#keys.corpusLayer(name, id))
  }

  async #publish(
    name: string,
    layer: NewLayer,
    kind: 'upsert' | 'replace' | 'delete',
    dictionary: Dictionary | undefined,
  ): Promise<void> {
    const chunks = await layer.finish()
    await this.#corpora.manifests.change(name, (manifest, now) => {
      // Published before, and the reply was lost.
      if (manifest.layers.some(({ id }) => id === layer.id)) return undefined
      if (kind === 'delete' && !isPresent(manifest)) throw unknownCorpus(name)
      const full = kind === 'replace' || !isPresent(manifest)
      const added = { id: layer.id, dictionaries: dictionary ? [dictionary.id] : [], ...(full ? { full } : {}) }
      return {
        manifest: withLayer(manifest, added, now),
        steps: [
          { key: layer.key, publish: chunks },
          ...(dictionary ? [{ key: this.#keys.corpusDictionary(name, dictionary.id), store: dictionary.bytes }] : []),
        ],
      }
    })
  }

  async #report(name: string, given: number, before: number): Promise<ChangeReport> {
    const info = await this.#corpora.info(name)
    return { ...info, given, grown: info.passages - before }
  }

  async #passages(name: string): Promise<number> {
    try {
      return (await this.#corpora.info(name)).passages
    } catch (error) {
      if (error instanceof RankmillError && error.code === 'unknown_corpus') return 0
      throw error
    }
  }
}

/** A layer while it is written. */
class NewLayer {
  readonly id: string
  readonly key: string
  given = 0
  readonly #corpora: Corpora
  readonly #name: string
  /** By id; without the texts, of which many would fill the memory. */
  #chunk = new Map<string, { value: Buffer; source: string | undefined }>()
  #chunkBytes = 0
  #chunks = 0
  #underWay: Promise<void>[] = []
  readonly #renewal: NodeJS.Timeout

  constructor(corpora: Corpora, name: string, id: string, key: string) {
    this.#corpora = corpora
    this.#name = name
    this.id = id
    this.key = key
    // The source may be slower than the layer's lifetime.
    this.#renewal = setInterval(() => void this.#touch(LAYER_TTL_MS), RENEW_MS).unref()
  }

  /** @returns whether a chunk went out */
  async add(id: string, value: Buffer, source: string | undefined): Promise<boolean> {
    if (this.#chunk.has(id)) throw duplicateId(id, source)
    this.#chunk.set(id, { value, source })
    this.#chunkBytes += value.length
    this.given++
    if (this.#chunk.size < CHUNK_PASSAGES && this.#chunkBytes < CHUNK_BYTES) return false
    await this.#send()
    return true
  }

  /** @returns the number of chunks */
  async finish(): Promise<number> {
    if (this.#chunk.size > 0) await this.#send()
    await Promise.all(this.#underWay)
    clearInterval(this.#renewal)
    return this.#chunks
  }

  async discard(): Promise<void> {
    clearInterval(this.#renewal)
    await Promise.allSettled(this.#underWay)
    // What cannot be dropped now expires.
    await this.#touch(0)
  }

  #touch(ttlMs: number): Promise<void> {
    return this.#corpora.manifests.scripts.touch(this.key, ttlMs).catch(() => undefined)
  }

  async #send(): Promise<void> {
    const chunk = [...this.#chunk]
    ;[this.#chunk, this.#chunkBytes] = [new Map(), 0]
    const sent = this.#stage(chunk, ++this.#chunks)
    // Its error is thrown where it is awaited.
    sent.catch(() => undefined)
    this.#underWay.push(sent)
    if (this.#underWay.length >= CHUNKS_AHEAD) await this.#underWay.shift()
  }

  async #stage(
    chunk: readonly [string, { value: Buffer; source: string | undefined }][],
    number: number,
  ): Promise<void> {
    const fields = chunk.flatMap(([id, { value }]) => [id, value])
    const outcome = await this.#corpora.manifests.scripts.stage(this.key, LAYER_TTL_MS, number, fields)
    if (outcome === -1) throw layerLost(this.#name)
    const again = chunk[outcome - 1]
    if (again) throw duplicateId(again[0], again[1].source)
  }
}
