/** The rules of batch shapes: what options may ask for, what is assumed unmeasured, which shapes are worth measuring. */
import { freemem } from 'node:os'
import { RankmillError } from '../../shared/errors.js'
import type { Device, ModelFiles } from '../model/model.js'
import type { BatchShape } from './engine.js'

interface ShapeOptions {
  readonly device: Device
  readonly threads: number
  readonly sessions?: number
  readonly batchPairs?: number
  readonly batchTokens?: number
}

/** What options fix; 0 means open. */
export interface FixedShape {
  readonly sessions: number
  readonly batchPairs: number
  readonly batchTokens: number
}

/** Padded tokens of a call where nothing was measured: on CPUs what stays in the caches, on GPUs what fills them. */
const DEFAULT_TOKENS: Readonly<Record<'cpu' | 'gpu', number>> = { cpu: 512, gpu: 16_384 }
/** Budgets that are measured, in this order, until more no longer helps. */
const BUDGETS: Readonly<Record<'cpu' | 'gpu', readonly number[]>> = {
  cpu: [128, 256, 512, 1024, 2048, 4096],
  // Small ones first: some devices that call themselves GPUs are computed by a CPU.
  gpu: [128, 512, 2048, 8192, 16_384, 32_768, 65_536, 131_072],
}
/** The shortest pairs that come in numbers; the budget's pairs are counted by it. */
const SHORT_PAIR_TOKENS = 16
const MAX_SESSIONS = 32

const kindOf = (device: Device) => (device === 'cpu' ? 'cpu' : 'gpu')

/**
 * What the options fix.
 *
 * @throws RankmillError `invalid_configuration`, naming option, limit and value
 */
export function fixedShape({
  device,
  threads,
  sessions = 0,
  batchPairs = 0,
  batchTokens = 0,
}: ShapeOptions): FixedShape {
  const refuse = (option: string, message: string) => {
    throw new RankmillError('invalid_configuration', message, { param: option })
  }
  if (!Number.isInteger(threads) || threads < 1) refuse('threads', `threads: at least 1; got ${threads}`)
  for (const [option, value] of Object.entries({ sessions, batchPairs, batchTokens })) {
    if (!Number.isInteger(value) || value < 0) refuse(option, `${option}: a whole number, 0 for none; got ${value}`)
  }
  if (device === 'cpu' && sessions > threads) {
    refuse('sessions', `sessions: at most one for each of the ${threads} threads (--threads); got ${sessions}`)
  }
  if (batchTokens > 0 && batchPairs > batchTokens) {
    refuse('batchPairs', `batchPairs: at most the ${batchTokens} tokens of a batch (--batch-tokens); got ${batchPairs}`)
  }
  return { sessions, batchPairs, batchTokens }
}

/** A whole shape from numbers of sessions and tokens, and what the options fix. */
export function shapeOf(
  model: ModelFiles,
  { threads }: ShapeOptions,
  fixed: FixedShape,
  sessions: number,
  tokens: number,
): BatchShape {
  // Who fixes the pairs wants batches of as many, however long they are.
  const batchTokens = fixed.batchTokens || (fixed.batchPairs ? fixed.batchPairs * model.maxTokens : tokens)
  const batchPairs = fixed.batchPairs || Math.max(1, Math.floor(batchTokens / SHORT_PAIR_TOKENS))
  return Object.freeze({
    sessions,
    threadsPerSession: Math.max(1, Math.floor(threads / sessions)),
    batchPairs,
    batchTokens,
  })
}

/** What is assumed without a measurement. */
export function defaultShape(
  model: ModelFiles,
  modelBytes: number,
  options: ShapeOptions,
  fixed: FixedShape,
): BatchShape {
  const [sessions = 1] = sessionCounts(modelBytes, options, fixed)
  return shapeOf(model, options, fixed, sessions, DEFAULT_TOKENS[kindOf(options.device)])
}

/**
 * Numbers of sessions worth trying, the best guess first: on a CPU one for each thread (as far as memory lets), one for
 * every four threads, and one for all; on a GPU one, and two, of which one can copy while the other computes.
 */
export function sessionCounts(modelBytes: number, { device, threads }: ShapeOptions, fixed: FixedShape): number[] {
  if (fixed.sessions) return [fixed.sessions]
  if (device !== 'cpu') return [1, 2]
  // A session holds the weights, some of them twice (packed for the matrix kernels): at most half of what is free.
  const fit = Math.floor(freemem() / 2 / (2 * modelBytes + 50e6))
  const most = Math.max(1, Math.min(threads, fit, MAX_SESSIONS))
  return [...new Set([most, ...(most >= 8 ? [Math.ceil(most / 4)] : []), 1])]
}

/** Token budgets to measure. */
export function tokenBudgets({ device }: ShapeOptions, fixed: FixedShape): readonly number[] {
  const isFixed = fixed.batchTokens > 0 || fixed.batchPairs > 0
  return isFixed ? [fixed.batchTokens || DEFAULT_TOKENS[kindOf(device)]] : BUDGETS[kindOf(device)]
}
