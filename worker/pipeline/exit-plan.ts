/** Whether, where and by which margins the candidates of a job may leave the model early: docs/strategies.md. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import type { Model } from '../model/model.js'

/** A confidence that costs a change among the first results in few of a hundred requests. */
const AUTO_CONFIDENCE = 0.99

export type ExitPlan =
  /** The whole model scores all. */
  | { readonly kind: 'never' }
  /** All leave at one exit, by its place among the model's. */
  | { readonly kind: 'after'; readonly exit: number; readonly layer: number }
  /** Those leave that are further than the margin behind the `topN`-th; one margin for each exit but the last. */
  | { readonly kind: 'confident'; readonly topN: number; readonly margins: readonly number[] }

const NEVER: ExitPlan = { kind: 'never' }

/**
 * @throws RankmillError `invalid_request` where the model has no such exit or confidence
 */
export function planExit(
  { exit, topN }: Pick<RerankJob, 'exit' | 'topN'>,
  { name, dtype, exits }: Pick<Model, 'name' | 'dtype' | 'exits'>,
): ExitPlan {
  if (exit === 'never') return NEVER
  const refuse = (what: string) => {
    return new RankmillError('invalid_request', `strategy.exit: ${name} ${what}`, { param: 'strategy.exit' })
  }
  if (exit === 'auto') {
    const margins = topN === null ? undefined : marginsFor(exits, AUTO_CONFIDENCE)
    return margins && topN !== null ? { kind: 'confident', topN, margins } : NEVER
  }
  if (exits.length === 0) throw refuse(`has no exits in ${dtype}`)
  if ('after' in exit) {
    const place = exits.findIndex(({ layer }) => layer === exit.after)
    if (place < 0)
      throw refuse(`has exits after layers ${exits.map(({ layer }) => layer).join(', ')}; got ${exit.after}`)
    return place === exits.length - 1 ? NEVER : { kind: 'after', exit: place, layer: exit.after }
  }
  const margins = marginsFor(exits, exit.confidence)
  if (!margins) {
    const most = Math.max(0, ...exits.slice(0, -1).map(({ margins }) => margins.at(-1)?.confidence ?? 0))
    throw refuse(
      most === 0 ? 'has no learned margins' : `has margins for a confidence up to ${most}; got ${exit.confidence}`,
    )
  }
  return topN === null ? NEVER : { kind: 'confident', topN, margins }
}

/** Of each early exit the margin for the least confidence that is not below the wanted one. */
function marginsFor(exits: Model['exits'], confidence: number): number[] | undefined {
  const early = exits.slice(0, -1)
  const margins = early.flatMap((exit) => exit.margins.find((entry) => entry.confidence >= confidence)?.margin ?? [])
  return early.length > 0 && margins.length === early.length ? margins : undefined
}
