/**
 * Corpora in Redis: passages stored once under ids, compressed, so that requests can name them instead of carrying them.
 * Every change makes a new version, and is seen as a whole or not at all; versions that somebody has pinned are kept
 * (corpus/manifest.ts says how). Passages are written by producer/corpora/.
 */
import { setImmediate } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import { RankmillError } from '../errors.js'
import type { Keys } from '../protocol/keys.js'
import { checkCorpusName } from './corpus-name.js'
import { EmbeddingStore } from './embedding-store.js'
import { isPresent, type Layer, layersOf, type Manifest, parseManifest, withLayer, withPin } from './manifest.js'
import { ManifestStore } from './manifest-store.js'
import { type Dictionary, decodeText, dictionaryIdOf, dictionaryOf } from './text-codec.js'

/** Passages in one HMGET. */
const CHUNK = 500
/** Manifests and dictionaries remembered. */
const REMEMBERED = 256
/** Changes of a corpus in a row that one reading follows. */
const ATTEMPTS = 50

export interface CorpusInfo {
  readonly name: string
  readonly passages: number
  /** Another after every change, and never the same again. */
  readonly version: string
  /** Versions that can still be read: this one, and those that are pinned. */
  readonly versions: readonly string[]
  /** Redis's memory for all of them; null where Redis does not tell. */
  readonly bytes: number | null
  /** Milliseconds since 1970. */
  readonly updatedAt: number
}

export interface CorpusTexts {
  /** All texts are of this version. */
  readonly version: string
  /** By place of the id; undefined where there is none. */
  readonly texts: readonly (string | undefined)[]
}

export interface EmbeddedPassages {
  readonly version: string
  /** By place of the id; undefined where there is no passage. */
  readonly entries: readonly ({ readonly embedding: Buffer } | { readonly text: string } | undefined)[]
}

export class Corpora {
  readonly manifests: ManifestStore
  readonly embeddings: EmbeddingStore
  readonly #redis: Redis
  readonly #keys: Keys
  readonly #known = new LRUCache<string, Manifest>({ max: REMEMBERED })
  readonly #dictionaries = new LRUCache<string, Dictionary>({ max: REMEMBERED })

  constructor(redis: Redis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
    this.manifests = new ManifestStore(redis, keys)
    this.embeddings = new EmbeddingStore(redis, keys)
  }

  /** @throws RankmillError `unknown_corpus` */
  async info(name: string): Promise<CorpusInfo> {
    await this.manifests.settle(name)
    const { manifest } = await this.manifests.load(name)
    const layers = layersOf(manifest, manifest.version)
    if (!layers) throw unknownCorpus(name)
    const versions = manifest.layers.filter(({ removed }) => !removed).map(({ since }) => String(since))
    const [passages, bytes] = await Promise.all([this.#count(name, layers), this.#bytes(name, manifest)])
    return { name, passages, version: String(manifest.version), versions, bytes, updatedAt: manifest.updatedAt }
  }

  /** Every corpus, by name. */
  async list(): Promise<CorpusInfo[]> {
    const infos: CorpusInfo[] = []
    for (const name of (await this.#redis.smembers(this.#keys.corpora)).sort()) {
      const info = await this.info(name).catch((error) => {
        // Removed since it was listed.
        if (error instanceof RankmillError && error.code === 'unknown_corpus') return undefined
        throw error
      })
      if (info) infos.push(info)
    }
    return infos
  }

  /** @throws RankmillError `unknown_corpus` */
  async currentVersion(name: string): Promise<string> {
    const manifest = await this.#look(name)
    if (!isPresent(manifest)) throw unknownCorpus(name)
    return String(manifest.version)
  }

  /**
   * The texts under ids, all of one version.
   *
   * @param version null: the one that is current at the moment of reading
   * @throws RankmillError `unknown_corpus`, or `corpus_changed` where the version is not kept
   */
  async read(name: string, version: string | null, ids: readonly string[]): Promise<CorpusTexts> {
    const { values, dictionaries, ...read } = await this.#atOneVersion(name, version, (layers) =>
      this.#values(name, layers, ids),
    )
    return { version: read.version, texts: await decodeAll(values, dictionaries) }
  }

  /**
   * As `read`, but of passages that have an embedding stored this, and not the text.
   *
   * @param context hash of what embeddings depend on
   */
  async readEmbedded(
    name: string,
    version: string,
    context: string,
    ids: readonly string[],
  ): Promise<EmbeddedPassages> {
    const { values, dictionaries, ...read } = await this.#atOneVersion(name, version, async (layers) => {
      const { manifests, entries } = await this.embeddings.read(name, layers, context, ids)
      const seen = manifests.map((text) => this.#remember(name, text))
      // Each chunk was read by itself: one that saw another manifest speaks for all.
      const other = seen.find((one) => !isSame(layersOf(one, versionNumber(version)), layers))
      return { seen: other ?? seen[0] ?? parseManifest(null), values: entries }
    })
    const stored = values.map((entry) => (entry && 'value' in entry ? entry.value : undefined))
    const texts = await decodeAll(stored, dictionaries)
    const entries = values.map((entry, i) => {
      const text = texts[i]
      return entry && 'embedding' in entry ? entry : text === undefined ? undefined : { text }
    })
    return { version: read.version, entries }
  }

  /** The texts of passages as they are stored in some layers. */
  async decode(name: string, layers: readonly Layer[], values: readonly Buffer[]): Promise<string[]> {
    const texts = await decodeAll(values, (await this.#loadDictionaries(name, layers)) ?? new Map())
    return texts.map((text) => text ?? '')
  }

  /** Whether there may be such embeddings in a corpus. */
  async hasEmbeddings(name: string, context: string): Promise<boolean> {
    return (await this.#look(name)).embeddings?.[context] !== undefined
  }

  /** Reads values of a version's layers, together with a manifest that says that they are the version's. */
  async #atOneVersion<T>(
    name: string,
    version: string | null,
    fetch: (layers: readonly Layer[]) => Promise<{ seen: Manifest; values: T[] }>,
  ): Promise<{ version: string; values: T[]; dictionaries: ReadonlyMap<number, Dictionary> }> {
    let manifest = this.#known.get(name) ?? (await this.#look(name))
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const wanted = version === null ? manifest.version : versionNumber(version)
      const layers = layersOf(manifest, wanted)
      const dictionaries = layers && (await this.#loadDictionaries(name, layers))
      if (layers && dictionaries) {
        const { seen, values } = await fetch(layers)
        const now = version === null ? seen.version : wanted
        // Only what was read together with a manifest that says the same is one version.
        if (now === wanted && isSame(layersOf(seen, now), layers)) {
          return { version: String(now), values, dictionaries }
        }
        manifest = seen
      } else {
        const fresh = await this.#look(name)
        if (version === null && !isPresent(fresh)) throw unknownCorpus(name)
        if (version !== null && !layersOf(fresh, wanted)) throw versionGone(name, version, fresh)
        manifest = fresh
      }
    }
    throw new RankmillError('internal', `corpus "${name}" changed ${ATTEMPTS} times while it was read`)
  }

  /**
   * Keeps a version from being dropped, for a time; again with the same holder and version to keep it for longer.
   *
   * @param holder who needs it; one holder has one pin in a corpus, and finds it again after a restart
   * @param version default: the holder's own as long as its pin lasts, else the current one
   * @returns the version, for `documents: {corpus, version, ids}`
   * @throws RankmillError `unknown_corpus`, or `corpus_changed` where the version is not kept any more
   */
  async pin(name: string, holder: string, ttlMs: number, version?: string): Promise<string> {
    checkCorpusName(name)
    let pinned = 0
    await this.manifests.change(name, (manifest, now) => {
      const held = manifest.pins[holder]
      const own = held && held.expiresAt > now ? held.version : manifest.version
      pinned = version === undefined ? own : versionNumber(version)
      if (!layersOf(manifest, pinned)) {
        throw version === undefined ? unknownCorpus(name) : versionGone(name, version, manifest)
      }
      return { manifest: withPin(manifest, holder, { version: pinned, expiresAt: now + ttlMs }, now) }
    })
    return String(pinned)
  }

  /** Lets a pin end so soon, if it would not sooner; nothing happens where there is none. */
  async shortenPin(name: string, holder: string, ttlMs: number): Promise<void> {
    await this.manifests.change(name, (manifest, now) => {
      const held = manifest.pins[holder]
      if (!held || held.expiresAt <= now + ttlMs) return undefined
      return { manifest: withPin(manifest, holder, { ...held, expiresAt: now + ttlMs }, now) }
    })
  }

  /** Takes a pin away, and drops what only it kept; nothing happens where there is none. */
  async release(name: string, holder: string): Promise<void> {
    await this.manifests.change(name, (manifest, now) =>
      manifest.pins[holder] ? { manifest: withPin(manifest, holder, undefined, now) } : undefined,
    )
    await this.manifests.settle(name)
  }

  /**
   * Removes a corpus; pinned versions stay until their pins end.
   *
   * @throws RankmillError `unknown_corpus`
   */
  async remove(name: string): Promise<void> {
    checkCorpusName(name)
    let isFirst = true
    await this.manifests.change(name, (manifest, now) => {
      if (!isPresent(manifest)) {
        // Not there at the second look: the change was made, and its reply lost.
        if (isFirst) throw unknownCorpus(name)
        return undefined
      }
      isFirst = false
      const layer = { id: `removed-${manifest.version + 1}`, full: true, removed: true, dictionaries: [] } as const
      return { manifest: withLayer(manifest, layer, now) }
    })
    await this.manifests.settle(name)
  }

  async #look(name: string): Promise<Manifest> {
    return this.#remember(name, await this.#redis.get(this.#keys.corpusManifest(name)))
  }

  #remember(name: string, text: string | null): Manifest {
    const manifest = parseManifest(text)
    this.#known.set(name, manifest)
    return manifest
  }

  /** Values of every layer together with the manifest, in one transaction. */
  async #values(
    name: string,
    layers: readonly Layer[],
    ids: readonly string[],
  ): Promise<{ seen: Manifest; values: (Buffer | undefined)[] }> {
    const reading = this.#redis.multi().get(this.#keys.corpusManifest(name))
    for (const { id } of layers) {
      for (let i = 0; i < ids.length; i += CHUNK) {
        reading.hmgetBuffer(this.#keys.corpusLayer(name, id), ...ids.slice(i, i + CHUNK))
      }
    }
    const [text, ...pages] = ((await reading.exec()) ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply
    }) as [string | null, ...(Buffer | null)[][]]
    const found = pages.flat()
    const values = ids.map((_, i) => {
      const value = layers.map((_, layer) => found[layer * ids.length + i]).find((v) => v)
      // An empty one notes that the passage was deleted.
      return value && value.length > 0 ? value : undefined
    })
    return { seen: this.#remember(name, text), values }
  }

  /** @returns undefined where one is not there any more */
  async #loadDictionaries(name: string, layers: readonly Layer[]): Promise<Map<number, Dictionary> | undefined> {
    const loaded = new Map<number, Dictionary>()
    for (const id of new Set(layers.flatMap(({ dictionaries }) => dictionaries))) {
      const key = this.#keys.corpusDictionary(name, id)
      let dictionary = this.#dictionaries.get(key)
      if (!dictionary) {
        const bytes = await this.#redis.getBuffer(key)
        if (!bytes) return undefined
        dictionary = dictionaryOf(bytes)
        this.#dictionaries.set(key, dictionary)
      }
      loaded.set(id, dictionary)
    }
    return loaded
  }

  /** The dictionary that more passages of a corpus should be compressed with. */
  async latestDictionary(name: string): Promise<Dictionary | undefined> {
    const manifest = await this.#look(name)
    const layers = isPresent(manifest) ? (layersOf(manifest, manifest.version) ?? []) : []
    const id = layers.flatMap(({ dictionaries }) => dictionaries).at(-1)
    const bytes = id === undefined ? null : await this.#redis.getBuffer(this.#keys.corpusDictionary(name, id))
    return bytes ? dictionaryOf(bytes) : undefined
  }

  async #count(name: string, layers: readonly Layer[]): Promise<number> {
    const keys = layers.map(({ id }) => this.#keys.corpusLayer(name, id))
    let passages = await this.#redis.hlen(keys.at(-1) ?? '')
    for (let i = 0; i < keys.length - 1; i++) passages += await this.manifests.scripts.countChange(keys.slice(i))
    return passages
  }

  async #bytes(name: string, manifest: Manifest): Promise<number | null> {
    const keys = [
      ...manifest.layers.map(({ id }) => this.#keys.corpusLayer(name, id)),
      ...Object.keys(manifest.embeddings ?? {}).flatMap((context) =>
        manifest.layers.map(({ id }) => this.#keys.corpusEmbeddings(name, id, context)),
      ),
      ...manifest.layers.flatMap(({ dictionaries }) => dictionaries.map((id) => this.#keys.corpusDictionary(name, id))),
    ]
    try {
      const sizes = await Promise.all([...new Set(keys)].map((key) => this.#redis.memory('USAGE', key, 'SAMPLES', 200)))
      return sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0)
    } catch {
      // Not every Redis has the command, or allows it.
      return null
    }
  }
}

/** Decompressing runs on the event loop; after so many passages it lets others go first. */
const DECODE_SLICE = 500

async function decodeAll(
  values: readonly (Buffer | undefined)[],
  dictionaries: ReadonlyMap<number, Dictionary>,
): Promise<(string | undefined)[]> {
  const texts: (string | undefined)[] = []
  for (const value of values) {
    texts.push(value && decodeText(value, dictionaries.get(dictionaryIdOf(value) ?? 0)))
    if (texts.length % DECODE_SLICE === 0) await setImmediate()
  }
  return texts
}

function isSame(a: readonly Layer[] | undefined, b: readonly Layer[]): boolean {
  return a?.length === b.length && a.every(({ id }, i) => id === b[i]?.id)
}

/** NaN, which is no version, for what is no number. */
function versionNumber(version: string): number {
  return /^[1-9]\d{0,14}$/.test(version) ? Number(version) : Number.NaN
}

export function unknownCorpus(name: string): RankmillError {
  return new RankmillError('unknown_corpus', `there is no corpus "${name}"`, { param: 'documents.corpus' })
}

function versionGone(name: string, version: string, manifest: Manifest): RankmillError {
  const current = isPresent(manifest) ? `its current version is ${manifest.version}` : 'there is no such corpus now'
  const message = `version ${version} of corpus "${name}" is not kept; ${current}`
  return new RankmillError('corpus_changed', message, { param: 'documents.version' })
}
