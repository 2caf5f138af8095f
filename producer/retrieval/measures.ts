/**
 * Measures of rankings against judgements, as trec_eval and pytrec_eval compute them (values from there are in
 * test/golden/retrieval): a document without a judgement counts as not relevant, so does one with a grade of 0 or less.
 */
import { RankmillError } from '../../shared/errors.js'
import type { Qrels } from './beir.js'
import type { TrecRun } from './trec-run.js'

export interface Measure {
  readonly name: string
  /** The value for one query, 0 to 1; documents best first, grades by document. 0 where nothing is relevant. */
  of(docIds: readonly string[], grades: ReadonlyMap<string, number>): number
}

/** Normalised discounted cumulative gain of the first k: linear gain, log2 discount (trec_eval's ndcg_cut). */
export function ndcg(k: number): Measure {
  checkCutoff(k)
  return {
    name: `nDCG@${k}`,
    of(docIds, grades) {
      const best = [...grades.values()].sort((a, b) => b - a)
      const ideal = gainOf(best, k)
      if (ideal === 0) return 0
      const found = docIds.slice(0, k).map((id) => grades.get(id) ?? 0)
      return gainOf(found, k) / ideal
    },
  }
}

function gainOf(grades: readonly number[], k: number): number {
  let gain = 0
  const end = Math.min(k, grades.length)
  for (let i = 0; i < end; i++) gain += Math.max(grades[i] ?? 0, 0) / Math.log2(i + 2)
  return gain
}

/** Reciprocal rank of the first relevant document, 0 where none is among the first k. */
export function mrr(k: number): Measure {
  checkCutoff(k)
  return {
    name: `MRR@${k}`,
    of(docIds, grades) {
      const place = docIds.slice(0, k).findIndex((id) => isRelevant(grades.get(id)))
      return place === -1 ? 0 : 1 / (place + 1)
    },
  }
}

/** Average precision over all documents that are judged relevant, found or not (trec_eval's map). */
export const AVERAGE_PRECISION: Measure = {
  name: 'MAP',
  of(docIds, grades) {
    const relevant = relevantCount(grades)
    if (relevant === 0) return 0
    let found = 0
    let sum = 0
    docIds.forEach((id, i) => {
      if (isRelevant(grades.get(id))) sum += ++found / (i + 1)
    })
    return sum / relevant
  },
}

/** Share of the relevant documents that are among the first k (trec_eval's recall). */
export function recall(k: number): Measure {
  checkCutoff(k)
  return {
    name: `R@${k}`,
    of(docIds, grades) {
      const relevant = relevantCount(grades)
      if (relevant === 0) return 0
      return docIds.slice(0, k).filter((id) => isRelevant(grades.get(id))).length / relevant
    },
  }
}

/** What a comparison shows unless told otherwise. */
export const USUAL_MEASURES: readonly Measure[] = [ndcg(10), mrr(10), AVERAGE_PRECISION, recall(100)]

/**
 * A measure for each query that has judgements, in their order. A query that the run lacks counts as 0, and one that
 * only the run has is left out: a mean over the values is that of ir_measures (and of `trec_eval -c`).
 */
export function evaluateRun(run: TrecRun, qrels: Qrels, measure: Measure): ReadonlyMap<string, number> {
  const values = new Map<string, number>()
  for (const [queryId, grades] of qrels) values.set(queryId, measure.of(run.get(queryId)?.docIds ?? [], grades))
  return values
}

function isRelevant(grade: number | undefined): boolean {
  return grade !== undefined && grade >= 1
}

function relevantCount(grades: ReadonlyMap<string, number>): number {
  let count = 0
  for (const grade of grades.values()) if (isRelevant(grade)) count++
  return count
}

function checkCutoff(k: number): void {
  if (Number.isSafeInteger(k) && k >= 1) return
  throw new RankmillError('invalid_request', `cutoff: must be an integer of at least 1, got ${k}`, { param: 'cutoff' })
}
