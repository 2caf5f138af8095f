/**
 * Embeddings of a corpus's passages, made before requests ask for them, and stored beside the passages. What is there
 * already is passed over, so that a run that was stopped goes on with the next. Memory: a page of passages.
 */
import { randomBytes } from 'node:crypto'
import type { Corpora } from '../../shared/corpus/corpora.js'
import type { Layer } from '../../shared/corpus/manifest.js'
import { layersOf } from '../../shared/corpus/manifest.js'
import { RankmillError } from '../../shared/errors.js'
import type { BiEncoder } from '../bi-encoder.js'
import { packEmbedding } from '../embedding.js'

/** The version that is worked on is kept so long after the last sign of the run. */
const PIN_MS = 120_000
const RENEW_MS = 30_000
const NOBODY_WAITS = { priority: 0, deadlineAt: null }
/** Rounds over a corpus whose layers are merged meanwhile. */
const ROUNDS = 20

export interface EmbedReport {
  readonly version: string
  /** Passages that have an embedding now. */
  readonly passages: number
  /** Those of them that got it in this run. */
  readonly embedded: number
}

export interface EmbedProgress {
  readonly onProgress?: (embedded: number) => void
  readonly signal: AbortSignal
}

/**
 * @param version undefined: the current one
 * @throws RankmillError `unknown_corpus`, `corpus_changed` where the version is not kept; or the signal's reason
 */
export async function embedCorpus(
  corpora: Corpora,
  name: string,
  version: string | undefined,
  encoder: BiEncoder,
  progress: EmbedProgress,
): Promise<EmbedReport> {
  const holder = `embed-${randomBytes(9).toString('base64url')}`
  const pinned = await corpora.pin(name, holder, PIN_MS, version)
  const renewal = setInterval(() => void corpora.pin(name, holder, PIN_MS, pinned).catch(() => undefined), RENEW_MS)
  try {
    await corpora.manifests.change(name, (manifest) => {
      if (manifest.embeddings?.[encoder.context] !== undefined) return undefined
      return {
        manifest: { ...manifest, embeddings: { ...manifest.embeddings, [encoder.context]: encoder.model.name } },
      }
    })
    await corpora.manifests.settle(name)
    let embedded = 0
    const add = (count: number) => {
      embedded += count
      progress.onProgress?.(embedded)
    }
    for (let round = 1; round <= ROUNDS; round++) {
      const before = await layersNow(corpora, name, pinned)
      const { passages, made } = await embedLayers(corpora, name, before, encoder, add, progress.signal)
      const after = await layersNow(corpora, name, pinned)
      // A round that met a merge may have missed passages that moved.
      const isStill = after.length === before.length && after.every(({ id }, i) => id === before[i]?.id)
      if (isStill && made === 0) return { version: pinned, passages, embedded }
    }
    throw new RankmillError('conflict', `corpus "${name}" is being changed by too many at once`, { param: 'corpus' })
  } finally {
    clearInterval(renewal)
    await corpora.release(name, holder)
  }
}

async function layersNow(corpora: Corpora, name: string, version: string): Promise<Layer[]> {
  const { manifest } = await corpora.manifests.load(name)
  const layers = layersOf(manifest, Number(version))
  if (layers) return layers
  const message = `version ${version} of corpus "${name}" is not kept any more`
  throw new RankmillError('corpus_changed', message, { param: 'corpus' })
}

async function embedLayers(
  corpora: Corpora,
  name: string,
  layers: readonly Layer[],
  encoder: BiEncoder,
  add: (stored: number) => void,
  signal: AbortSignal,
): Promise<{ passages: number; made: number }> {
  let [passages, made] = [0, 0]
  for (const [place, layer] of layers.entries()) {
    const scanned = [layer, ...layers.slice(0, place)]
    let cursor = '0'
    do {
      signal.throwIfAborted()
      const page = await corpora.embeddings.page(name, scanned, encoder.context, cursor)
      cursor = page.cursor
      passages += page.present
      if (page.lacking.length === 0) continue
      const texts = await corpora.decode(
        name,
        layers,
        page.lacking.map(({ value }) => value),
      )
      const { embeddings } = await encoder.passages(texts, NOBODY_WAITS, signal)
      const stored = page.lacking.flatMap((passage, i) => {
        const embedding = embeddings[i]
        return embedding ? [{ passage, embedding: packEmbedding(embedding) }] : []
      })
      await corpora.embeddings.store(name, layer, encoder.context, stored).then(add)
      made += page.lacking.length
    } while (cursor !== '0')
  }
  return { passages, made }
}
