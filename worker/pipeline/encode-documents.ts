/** Stage: token ids of the documents that have no score yet, and how a document's score comes from those of its pairs. */
import { setImmediate } from 'node:timers/promises'
import type { RerankJob } from '../../shared/protocol/job.js'
import type { EncodedPair, PairEncoder, WindowRule } from '../tokenize/pair-encoder.js'
import type { KnownScore } from './score-cache.js'
import { snippetOf } from './snippet.js'

/** Tokenising runs on the event loop; after so long it lets others go first (lock renewal, finished batches). */
const SLICE_MS = 8
const UNITS_PER_TOKEN = 4

export interface EncodedDocument {
  readonly pairs: readonly EncodedPair[]
  /** The document's score, from the logits of its pairs. */
  score(logits: Float32Array): KnownScore
}

/** What documents are encoded with. */
export interface DocumentEncoder {
  readonly encoder: PairEncoder
  readonly windows: WindowRule
}

/** One pair a document, or with `windows` several where it is too long for one. */
export async function encodeDocuments(
  with_: DocumentEncoder,
  job: Pick<RerankJob, 'query' | 'maxTokensPerDoc' | 'longDocuments'>,
  passages: readonly string[],
): Promise<EncodedDocument[]> {
  const encode = MODES[job.longDocuments]
  const documents: EncodedDocument[] = []
  let sliceEnd = performance.now() + SLICE_MS
  for (const passage of passages) {
    documents.push(encode(with_, job.query, passage, job.maxTokensPerDoc ?? undefined))
    if (performance.now() > sliceEnd) {
      await setImmediate()
      sliceEnd = performance.now() + SLICE_MS
    }
  }
  return documents
}

/** About how many windows a text of so many UTF-16 code units has. */
export function windowsOf(length: number, { encoder, windows }: DocumentEncoder): number {
  return Math.ceil(length / UNITS_PER_TOKEN / (encoder.maxTokens * (1 - windows.overlap)))
}

type Encode = (with_: DocumentEncoder, query: string, passage: string, limit: number | undefined) => EncodedDocument

const MODES: Readonly<Record<RerankJob['longDocuments'], Encode>> = {
  truncate({ encoder }, query, passage, limit) {
    return single(encoder.encode(query, passage, limit))
  },

  snippet({ encoder }, query, passage, limit) {
    const { tokens, complete } = encoder.room(query, passage, limit)
    if (complete || tokens < 1) return single(encoder.encode(query, passage, limit))
    const snippet = snippetOf(query, passage, tokens, (text) => encoder.countTokens(text, tokens))
    const pair = encoder.encode(query, snippet, limit)
    return { pairs: [pair], score: (logits) => ({ logit: logits[0] ?? Number.NaN, truncated: true, snippet: true }) }
  },

  windows({ encoder, windows }, query, passage, limit) {
    const { pairs, spans, truncated } = encoder.encodeWindows(query, passage, windows, limit)
    return {
      pairs,
      score(logits) {
        const index = firstBest(logits)
        const span = spans[index] ?? [0, 0]
        const place =
          spans.length === 1 && !truncated ? { start: 0, end: passage.length } : encoder.locate(passage, span)
        return { logit: logits[index] ?? Number.NaN, truncated, window: { index, ...place, count: spans.length } }
      },
    }
  },
}

function single(pair: EncodedPair): EncodedDocument {
  return { pairs: [pair], score: (logits) => ({ logit: logits[0] ?? Number.NaN, truncated: pair.truncated }) }
}

function firstBest(logits: Float32Array): number {
  let best = 0
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? 0) > (logits[best] ?? 0)) best = i
  return best
}
