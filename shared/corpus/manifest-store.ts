/** Manifests in Redis: read, changed as a whole or not at all, and settled to as few layers as their pins need. */
import type { Redis } from 'ioredis'
import { RankmillError } from '../errors.js'
import type { Keys } from '../protocol/keys.js'
import { CorpusScripts, type KeyStep } from './corpus-scripts.js'
import { isPresent, type Manifest, nextSettlement, parseManifest } from './manifest.js'

export interface StoredManifest {
  readonly manifest: Manifest
  /** As it is stored; '' where there is none. */
  readonly text: string
  /** Milliseconds since 1970, by Redis's clock: pins of several machines must agree on it. */
  readonly now: number
}

export interface ManifestChange {
  readonly manifest: Manifest
  readonly steps?: readonly KeyStep[]
}

/** Tries at a change that others keep coming before. */
const ATTEMPTS = 1000

export class ManifestStore {
  readonly scripts: CorpusScripts
  readonly #redis: Redis
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    this.#redis = redis
    this.#keys = keys
    this.scripts = new CorpusScripts(redis)
  }

  async load(name: string): Promise<StoredManifest> {
    const replies = await this.#redis.pipeline().time().get(this.#keys.corpusManifest(name)).exec()
    const [time, text] = (replies ?? []).map(([error, reply]) => {
      if (error) throw error
      return reply
    }) as [[string, string], string | null]
    const now = Number(time[0]) * 1000 + Math.floor(Number(time[1]) / 1000)
    return { manifest: parseManifest(text), text: text ?? '', now }
  }

  /**
   * Changes a manifest, trying again where another change came before.
   *
   * @param edit gives the new manifest and what goes with it; undefined when there is nothing to change
   * @returns whether something was changed
   * @throws RankmillError `conflict` when a layer to be published is gone
   */
  async change(name: string, edit: (manifest: Manifest, now: number) => ManifestChange | undefined): Promise<boolean> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const { manifest, text, now } = await this.load(name)
      const change = edit(manifest, now)
      if (!change) return false
      const outcome = await this.scripts.change(
        { key: this.#keys.corpusManifest(name), from: text, to: JSON.stringify(change.manifest) },
        { key: this.#keys.corpora, name, listed: isPresent(change.manifest) },
        change.steps ?? [],
      )
      if (outcome === 1) return true
      if (outcome === -1) throw layerLost(name)
    }
    throw new RankmillError('conflict', `corpus "${name}" is being changed by too many at once`, { param: 'corpus' })
  }

  /** Merges and drops what no pin needs. Any number may do so at once, and be killed at any point: the next goes on. */
  async settle(name: string): Promise<void> {
    for (;;) {
      const { manifest, now } = await this.load(name)
      const due = nextSettlement(manifest, now)
      if (!due) return
      if (due.kind === 'merge') {
        const { lower, upper, keepDeletions } = due
        const [lowerKey, upperKey] = [this.#keys.corpusLayer(name, lower.id), this.#keys.corpusLayer(name, upper.id)]
        const embeddings = Object.keys(manifest.embeddings ?? {}).flatMap((context) =>
          [lower, upper].map(({ id }) => this.#keys.corpusEmbeddings(name, id, context)),
        )
        const keys = [this.#keys.corpusManifest(name), lowerKey, upperKey, ...embeddings]
        await this.scripts.merge(keys, upper.id, keepDeletions)
      }
      // What is due may be another thing by now.
      await this.change(name, (current, at) => {
        const still = nextSettlement(current, at)
        if (still?.kind !== due.kind) return undefined
        if (still.kind === 'update') return { manifest: still.manifest, steps: this.#drops(name, current, still) }
        if (due.kind !== 'merge' || still.upper.id !== due.upper.id) return undefined
        return { manifest: still.manifest, steps: this.#drops(name, current, { ...still, dropped: [still.upper.id] }) }
      })
    }
  }

  /** Layers that are dropped, with the embeddings beside them, and dictionaries that only they needed. */
  #drops(name: string, before: Manifest, after: { manifest: Manifest; dropped: readonly string[] }): KeyStep[] {
    const kept = new Set(after.manifest.layers.flatMap(({ dictionaries }) => dictionaries))
    const unneeded = new Set(before.layers.flatMap(({ dictionaries }) => dictionaries).filter((id) => !kept.has(id)))
    const contexts = Object.keys(before.embeddings ?? {})
    const embeddings = after.dropped.flatMap((id) => contexts.map((of) => this.#keys.corpusEmbeddings(name, id, of)))
    return [
      ...embeddings.map((key): KeyStep => ({ key, drop: true })),
      ...after.dropped.map((id): KeyStep => ({ key: this.#keys.corpusLayer(name, id), drop: true })),
      ...[...unneeded].map((id): KeyStep => ({ key: this.#keys.corpusDictionary(name, id), drop: true })),
    ]
  }
}

export function layerLost(name: string): RankmillError {
  const message = `corpus "${name}": what was written so far has expired, because its writer stood still for too long`
  return new RankmillError('conflict', message, { param: 'corpus' })
}
