/** What `rankmill models quantize` measures and shows: the new number format against fp32, in turn, list by list. */
import Table from 'cli-table3'
import { type Agreement, agreementOf, type TwiceScored } from '../producer/retrieval/agreement.js'
import type { TuningQuery } from '../producer/tune/trial.js'
import type { Options } from '../shared/options.js'
import type { Dtype } from '../shared/protocol/dtype.js'
import type { QuantizedModel } from '../worker/model/model-quantization.js'
import { ListScorer } from '../worker/offline/list-scorer.js'

/** Documents that are scored alone and padded among each other. */
const MOVED_DOCUMENTS = 8
/** Rounding of another order of summing, in logits: what moves a score less counts as nothing. */
const MOVED_LEAST = 1e-4

interface Side {
  readonly dtype: Dtype
  readonly bytes: number
  readonly pairsPerSecond: number
  /** How far a logit goes, at most, between a pair alone and the same pair padded among others. */
  readonly moved: number
  readonly batchInvariant: boolean
}

export interface QuantizationReport {
  readonly path: string
  readonly linears: number
  readonly tables: number
  /** int8: how activations are counted, and what that was found by. */
  readonly int8?: Pick<QuantizedModel, 'steps' | 'why' | 'fixed' | 'first' | 'tried'>
  readonly data: { readonly name: string; readonly lists: number; readonly pairs: number }
  /** fp32, then the new format. */
  readonly formats: readonly [Side, Side]
  readonly agreement: Agreement
}

/** @throws RankmillError as opening and scoring do; the signal's reason */
export async function measureQuantization(
  model: QuantizedModel,
  dtype: Dtype,
  lists: readonly TuningQuery[],
  dataName: string,
  options: Options,
  signal: AbortSignal,
): Promise<QuantizationReport> {
  const fp32 = await ListScorer.open(model.sourceFolder, { ...options, dtype: 'fp32' }, signal)
  try {
    const other = await ListScorer.open(model.folder, { ...options, dtype }, signal)
    try {
      return await measure(model, [fp32, other], lists, dataName)
    } finally {
      await other.close()
    }
  } finally {
    await fp32.close()
  }
}

async function measure(
  model: QuantizedModel,
  [fp32, other]: readonly [ListScorer, ListScorer],
  lists: readonly TuningQuery[],
  name: string,
): Promise<QuantizationReport> {
  const ms = new Map([fp32, other].map((scorer) => [scorer, 0]))
  const timed = async (scorer: ListScorer, query: string, texts: readonly string[]) => {
    const scored = await scorer.score(query, texts)
    ms.set(scorer, (ms.get(scorer) ?? 0) + scored.ms)
    return scored.scores
  }
  const scored: TwiceScored[] = []
  for (const [i, { query, documents, grades }] of lists.entries()) {
    const texts = documents.map(({ text }) => text)
    // In turn, so that a machine that is busy for a while is so for both.
    const scores = new Map<ListScorer, readonly number[]>()
    for (const scorer of i % 2 === 0 ? [fp32, other] : [other, fp32])
      scores.set(scorer, await timed(scorer, query, texts))
    scored.push({
      ids: documents.map(({ id }) => id),
      full: scores.get(fp32) ?? [],
      other: scores.get(other) ?? [],
      grades,
    })
  }
  const pairs = lists.reduce((sum, { documents }) => sum + documents.length, 0)
  const { dtype } = other.model
  const { steps, why, fixed, first, tried } = model
  const sideOf = async (scorer: ListScorer, bytes: number): Promise<Side> => {
    const [{ query, documents } = { query: '', documents: [] }] = lists
    const moved = await scorer.moved(query, spreadByLength(documents.map(({ text }) => text)))
    const pairsPerSecond = (pairs * 1000) / (ms.get(scorer) ?? 0)
    return { dtype: scorer.model.dtype, bytes, pairsPerSecond, moved, batchInvariant: moved <= MOVED_LEAST }
  }
  return {
    path: model.path,
    linears: model.linears,
    tables: model.tables,
    ...(dtype === 'int8' ? { int8: { steps, why, fixed, first, tried } } : {}),
    data: { name, lists: lists.length, pairs },
    formats: [await sideOf(fp32, model.sourceBytes), await sideOf(other, model.bytes)],
    agreement: agreementOf(scored),
  }
}

/** A few texts from the shortest to the longest: what padding could change shows between these. */
function spreadByLength(texts: readonly string[]): string[] {
  const sorted = [...texts].sort((a, b) => a.length - b.length)
  const count = Math.min(MOVED_DOCUMENTS, sorted.length)
  return Array.from(
    { length: count },
    (_, i) => sorted[Math.round((i * (sorted.length - 1)) / Math.max(1, count - 1))] ?? '',
  )
}

/** Of int8, before it: nothing is said while it lasts. */
export const MEASURING =
  ': steps are measured on texts, which takes a minute or two for a small encoder, and longer the larger it is'

/** What int8's steps are and why, in words; nothing of other formats. */
export function schemeLines({ steps, why, fixed = 0, first = 0, linears, tried }: QuantizedModel): string[] {
  if (steps === undefined) return []
  const found = tried
    ? `; on texts held out fixed steps have rank correlation ${figures(tried.fixed)} with fp32, one step a token ${figures(tried.row)}`
    : ''
  if (steps === 'row') return [`int8 with one step a token: ${why ?? 'fixed steps are further from fp32'}${found}`]
  const cut = first > 0 ? `; ${first} of the last layer's compute a pair's first tokens alone: no others are read` : ''
  return [`int8 with fixed steps in ${fixed} of ${linears} linear layers${cut}${found}`]
}

function figures({ rankCorrelation, noise }: { rankCorrelation: number; noise: number }): string {
  return `${rankCorrelation.toFixed(4)} (noise ${noise.toFixed(3)})`
}

export function quantizationTable({ formats, agreement, data }: QuantizationReport): string {
  const { rankCorrelation, overlapAt10, greatestDifference, ndcgAt10 } = agreement
  const table = new Table({
    head: ['', ...formats.map(({ dtype }) => dtype)],
    colAligns: ['left', 'right', 'right'],
    style: { head: process.stdout.isTTY ? ['bold'] : [], border: process.stdout.isTTY ? ['grey'] : [] },
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  })
  const each = (of: (side: Side) => string) => formats.map(of)
  table.push(
    ['size', ...each(({ bytes }) => `${(bytes / 1e6).toFixed(1)} MB`)],
    ['pairs/s', ...each(({ pairsPerSecond }) => pairsPerSecond.toFixed(1))],
    ['rank correlation, mean', '1', rankCorrelation.mean.toFixed(4)],
    ['rank correlation, lowest of a list', '1', rankCorrelation.lowest.toFixed(4)],
    ['first 10 that are the same', '100 %', `${(overlapAt10 * 100).toFixed(1)} %`],
    ['greatest difference of a score', '0', greatestDifference.toFixed(4)],
    ...(ndcgAt10 ? [['nDCG@10', ndcgAt10.full.toFixed(4), ndcgAt10.other.toFixed(4)]] : []),
    ['logit moved by others of its batch', ...each(({ moved }) => moved.toFixed(5))],
    ['batch-invariant', ...each(({ batchInvariant }) => (batchInvariant ? 'yes' : 'no'))],
  )
  return `${table.toString()}\n${data.lists} lists, ${data.pairs} pairs: ${data.name}\n`
}
