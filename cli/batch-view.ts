/** A batch run as a person watches it: a bar on a terminal, a line now and then elsewhere, a summary at the end. */
import { SingleBar } from 'cli-progress'
import type { BatchReport } from '../producer/batch/batch-report.js'
import type { BatchProgress, BatchRun } from '../producer/batch/batch-run.js'
import { note } from './exit.js'

export interface BatchView {
  end(): void
}

const BAR_MS = 250
const LINE_MS = 30_000
const BAR_STEPS = 1000
/** "Now" is the time it took to come from the reading so long ago. */
const NOW_MS = 10_000

interface Reading extends BatchProgress {
  readonly at: number
  readonly pairsPerSecondNow: number
  readonly pairsPerSecond: number
  readonly etaSeconds: number | undefined
}

/** Shows a run's progress on standard error until it is ended. */
export function watchBatch(run: BatchRun, json: boolean): BatchView {
  const read = meter(run)
  if (process.stderr.isTTY && !json) return bar(read)
  const print = () => {
    const reading = read()
    note(json ? JSON.stringify({ progress: reading }) : `rankmill: ${describe(reading)}`)
  }
  const timer = setInterval(print, LINE_MS)
  return { end: () => clearInterval(timer) }
}

function bar(read: () => Reading): BatchView {
  const shown = new SingleBar({
    format: '{bar} {share} {description}',
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    barsize: 24,
    gracefulExit: false,
  })
  const update = () => {
    const reading = read()
    const share = reading.share === undefined ? '' : `${(reading.share * 100).toFixed(1)} %`
    shown.update(Math.round((reading.share ?? 0) * BAR_STEPS), { share, description: describe(reading) })
  }
  shown.start(BAR_STEPS, 0, { share: '', description: '' })
  const timer = setInterval(update, BAR_MS)
  return {
    end: () => {
      clearInterval(timer)
      update()
      shown.stop()
    },
  }
}

/** Readings of a run, with its speed now and since it began, and the time that the rest of the input will take. */
function meter(run: BatchRun): () => Reading {
  const began = { at: performance.now(), ...run.progress() }
  const recent = [began]
  return () => {
    const now = { at: performance.now(), ...run.progress() }
    recent.push(now)
    while (recent.length > 2 && (recent[1]?.at ?? now.at) < now.at - NOW_MS) recent.shift()
    const since = recent[0] ?? began
    const speed = (from: typeof began) =>
      now.at > from.at ? ((now.pairs - from.pairs) / (now.at - from.at)) * 1000 : 0
    return {
      ...now,
      pairsPerSecondNow: Math.round(speed(since)),
      pairsPerSecond: Math.round(speed(began)),
      etaSeconds: etaOf(began, now),
    }
  }
}

function etaOf(began: BatchProgress & { at: number }, now: BatchProgress & { at: number }): number | undefined {
  if (now.share === undefined || began.share === undefined) return undefined
  const done = now.share - began.share
  return done > 0 ? Math.round(((now.at - began.at) / done / 1000) * (1 - now.share)) : undefined
}

function describe(reading: Reading): string {
  if (reading.waitingFor !== undefined) return `${reading.requests} requests | waiting: ${reading.waitingFor}`
  const { requests, pairs, cached, failed, inFlight, pairsPerSecond, pairsPerSecondNow, etaSeconds } = reading
  return [
    `${requests} requests`,
    `${pairsPerSecondNow} pairs/s now, ${pairsPerSecond} overall`,
    `ETA ${etaSeconds === undefined ? '–' : duration(etaSeconds)}`,
    `${inFlight} in flight`,
    `${failed} failed`,
    `${pairs === 0 ? 0 : Math.round((cached / pairs) * 100)} % cached`,
  ].join(' | ')
}

export function reportLines(
  { status, totals, errors, latency_ms, pairs_per_second, checked, changes }: BatchReport,
  output: string,
): string[] {
  const { requests, failed, pairs, cached, tokens, truncated, seconds, starts } = totals
  const codes = Object.entries(errors).map(([code, count]) => `${code} ${count}`)
  return [
    `rankmill: ${status}: ${requests} requests in ${output}, ${failed} failed${failed > 0 && codes.length > 0 ? ` (${codes.join(', ')})` : ''}`,
    `rankmill: ${pairs} pairs, ${cached} from the score cache, ${tokens} tokens, ${truncated} documents truncated; ` +
      `${duration(Math.round(seconds))}${starts > 1 ? ` in ${starts} starts` : ''}, ${pairs_per_second} pairs/s`,
    // Where all failed, none took any time.
    ...(latency_ms.p50 === null || latency_ms.p50 === undefined
      ? []
      : [`rankmill: a request took p50 ${latency_ms.p50} ms, p95 ${latency_ms.p95} ms, p99 ${latency_ms.p99} ms`]),
    ...(checked
      ? [
          `rankmill: checked: ${checked.answers} answers for ${checked.items} items of the input, ${checked.bytes} bytes`,
        ]
      : []),
    ...changes.map(
      ({ what, from, to, after }) =>
        `rankmill: not of one piece: ${what} was ${said(from)} for the first ${after} answers, then ${said(to)}`,
    ),
  ]
}

const said = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value))

export function duration(seconds: number): string {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  return parts[0] ? `${parts[0]} h ${parts[1]} min` : parts[1] ? `${parts[1]} min ${parts[2]} s` : `${parts[2]} s`
}
