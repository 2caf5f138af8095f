/** Stage: token ids of the documents that have no score yet, and how a document's score comes from those of its pairs. */
import type { RerankJob } from '../../shared/protocol/job.js'
import type { Urgency } from '../batching/urgency.js'
import {
  type EncoderSettings,
  type PairsOutput,
  SNIPPET,
  type TextRunner,
  TRUNCATED,
  tasksOf,
  WINDOWS,
} from '../text/text-tasks.js'
import type { EncodedPair, WindowRule } from '../tokenize/pair-encoder.js'
import type { KnownScore } from './score-cache.js'

export interface EncodedDocument {
  readonly pairs: readonly EncodedPair[]
  /** The document's score, from the logits of its pairs; of windows, the best one's, whose place is not known yet. */
  score(logits: Float32Array): KnownScore
  /** Tokens of each window, from and to, one behind the other, where they are parts of the text. */
  readonly spans?: Int32Array
}

/** What documents are encoded with. */
export interface DocumentEncoder {
  readonly texts: TextRunner
  readonly encoder: EncoderSettings
  readonly windows: WindowRule
}

/** About so many code units of a text are a token. */
const UNITS_PER_TOKEN = 4

/**
 * One pair a document, or with `windows` several where it is too long for one.
 *
 * @throws RankmillError of the encoder or of whoever works on texts; or the signal's reason
 */
export async function encodeDocuments(
  { texts, encoder, windows }: DocumentEncoder,
  job: Pick<RerankJob, 'query' | 'maxTokensPerDoc' | 'longDocuments' | 'instruction'> & Urgency,
  passages: readonly string[],
  signal: AbortSignal,
): Promise<EncodedDocument[]> {
  const { query, instruction, longDocuments: mode, maxTokensPerDoc: limit } = job
  const outputs = await Promise.all(
    Array.from(tasksOf(passages), async ([from, to]) => {
      const some = passages.slice(from, to)
      const task = {
        kind: 'pairs',
        encoder,
        query,
        instruction: instruction ?? null,
        passages: some,
        mode,
        limit,
        windows,
      } as const
      return documentsOf(await texts.run(task, job, signal), some)
    }),
  )
  return outputs.flat()
}

/** Fills in where windows are: scores in their documents' order, undefined for those that there are none of. */
export async function placeWindows(
  { texts, encoder }: DocumentEncoder,
  urgency: Urgency,
  documents: readonly EncodedDocument[],
  passages: readonly string[],
  scores: readonly (KnownScore | undefined)[],
  signal: AbortSignal,
): Promise<(KnownScore | undefined)[]> {
  const placed = [...scores]
  const open = scores.flatMap((score, i) => {
    const spans = documents[i]?.spans
    if (!score?.window || !spans) return []
    const at = 2 * score.window.index
    return [{ i, span: [spans[at] ?? 0, spans[at + 1] ?? 0], passage: passages[i] ?? '' }]
  })
  await Promise.all(
    Array.from(tasksOf(open.map(({ passage }) => passage)), async ([from, to]) => {
      const some = open.slice(from, to)
      const spans = Int32Array.from(some.flatMap(({ span }) => span))
      const task = { kind: 'places', encoder, passages: some.map(({ passage }) => passage), spans } as const
      const { places } = await texts.run(task, urgency, signal)
      for (const [n, { i }] of some.entries()) {
        const score = placed[i]
        if (!score?.window) continue
        placed[i] = { ...score, window: { ...score.window, start: places[2 * n] ?? 0, end: places[2 * n + 1] ?? 0 } }
      }
    }),
  )
  return placed
}

/** About how many windows a text of so many UTF-16 code units has. */
export function windowsOf(length: number, { encoder, windows }: DocumentEncoder): number {
  return Math.ceil(length / UNITS_PER_TOKEN / (encoder.maxTokens * (1 - windows.overlap)))
}

function documentsOf(
  { ids, lengths, secondStarts, prefixes, counts, flags, spans }: PairsOutput,
  passages: readonly string[],
): EncodedDocument[] {
  let [pair, at] = [0, 0]
  return passages.map((passage, i) => {
    const flag = flags[i] ?? 0
    const truncated = (flag & TRUNCATED) !== 0
    const pairs: EncodedPair[] = []
    const first = pair
    for (const end = pair + (counts[i] ?? 0); pair < end; pair++) {
      const length = lengths[pair] ?? 0
      const prefix = prefixes?.[pair]
      const secondStart = secondStarts[pair] ?? 0
      pairs.push({ ids: ids.subarray(at, at + length), secondStart, truncated, ...(prefix ? { prefix } : {}) })
      at += length
    }
    const end = passage.length
    if (spans.length > 0) {
      return {
        pairs,
        ...(flag & WINDOWS ? { spans: spans.subarray(2 * first, 2 * pair) } : {}),
        score(logits) {
          const index = firstBest(logits)
          return {
            logit: logits[index] ?? Number.NaN,
            truncated,
            window: { index, start: 0, end, count: pairs.length },
          }
        },
      }
    }
    const snippet = flag & SNIPPET ? ({ snippet: true } as const) : {}
    return { pairs, score: (logits) => ({ logit: logits[0] ?? Number.NaN, truncated, ...snippet }) }
  })
}

function firstBest(logits: Float32Array): number {
  let best = 0
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? 0) > (logits[best] ?? 0)) best = i
  return best
}
