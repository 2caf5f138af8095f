/** What the trials of one configuration say, beside those of the first on the same queries. */
import { mean } from 'simple-statistics'
import { interval, resampledRatios } from './bootstrap.js'
import type { Configuration } from './configurations.js'
import type { Trial } from './trial.js'

export interface Measured {
  readonly configuration: Configuration
  readonly queries: number
  /** Mean over the queries. */
  readonly quality: number
  /** Share of the first configuration's first 10 that are among the first 10; mean over the queries. */
  readonly overlap: number
  /** Of the first configuration's quality on the same queries. */
  readonly qualityShare: number
  /** 95 % of the resampled shares lie in it (paired bootstrap over queries). */
  readonly interval: readonly [low: number, high: number]
  /** Share of the resamples in which the quality is kept. */
  readonly confidence: number
  readonly candidatesPerSecond: number
  /** Candidates a second, of the first configuration's on the same queries. */
  readonly speedup: number
  readonly msPerRequest: number
  readonly tokensPerRequest: number
  /** Share of the candidates that the model did not score. */
  readonly skipped: number
  /** Nothing that was measured is both faster and better. */
  readonly onFrontier: boolean
}

/** Over the queries that both have seen: the same ones, in the same order. */
export function measure(
  configuration: Configuration,
  trials: readonly Trial[],
  firstTrials: readonly Trial[],
  within: number,
): Measured {
  const base = firstTrials.slice(0, trials.length)
  const quality = mean(trials.map((trial) => trial.quality))
  const baseQuality = mean(base.map((trial) => trial.quality))
  const candidates = sum(trials, (trial) => trial.candidates)
  const seconds = sum(trials, ({ ms }) => ms) / 1000
  const baseSeconds = sum(base, ({ ms }) => ms) / 1000
  const qualities = (list: readonly Trial[]) => list.map((trial) => trial.quality)
  const shares = resampledRatios([{ own: qualities(trials), base: qualities(base) }])
  return {
    configuration,
    queries: trials.length,
    quality,
    overlap: mean(trials.map((trial) => trial.overlap)),
    qualityShare: baseQuality === 0 ? 1 : quality / baseQuality,
    interval: interval(shares),
    confidence: shares.filter((value) => value >= 1 - within).length / shares.length,
    candidatesPerSecond: candidates / seconds,
    speedup: baseSeconds / seconds,
    msPerRequest: (seconds * 1000) / trials.length,
    tokensPerRequest: Math.round(sum(trials, ({ tokens }) => tokens) / trials.length),
    skipped: sum(trials, ({ skipped }) => skipped) / candidates,
    onFrontier: false,
  }
}

function sum(trials: readonly Trial[], of: (trial: Trial) => number): number {
  return trials.reduce((total, trial) => total + of(trial), 0)
}
