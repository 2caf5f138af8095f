/** Brings a batch run to its end: Redis and workers found or started, a bar, signals, a report. */
import { existsSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { BatchReport } from '../producer/batch/batch-report.js'
import type { BatchRun } from '../producer/batch/batch-run.js'
import { reportOf } from '../producer/batch/output-place.js'
import { unwritable } from '../producer/batch/unwritable.js'
import { RerankClient } from '../producer/client.js'
import { RankmillError } from '../shared/errors.js'
import { onSignals } from '../shared/lifecycle.js'
import type { Options } from '../shared/options.js'
import { type BatchView, reportLines, watchBatch } from './batch-view.js'
import { openSessionFor } from './embedded/flags.js'
import { clientOptions, type Session } from './embedded/session.js'
import { EXIT, note } from './exit.js'

/** What follows when the run has come to its end, with the same Redis, workers, bar and signals. */
export type Afterwards = (
  client: RerankClient,
  watch: (run: BatchRun) => () => void,
) => Promise<BatchReport | undefined>

/** Runs a run, unless it was finished before and nothing follows. */
export async function workOff(
  command: Command,
  options: Options,
  run: BatchRun,
  json: boolean,
  afterwards?: Afterwards,
): Promise<BatchReport> {
  if (run.wasFinished && !afterwards) {
    await run.close()
    return run.report()
  }
  const watched = new WatchedRun(json)
  const opening = new AbortController()
  const stopSignals = onSignals(
    () => {
      watched.stop('finishing what is under way; Ctrl-C again stops at once')
      opening.abort(new RankmillError('cancelled', 'interrupted'))
    },
    () => watched.abort(),
  )
  let session: Session | undefined
  let client: RerankClient | undefined
  try {
    session = await openSessionFor(command, options, opening.signal)
    client = new RerankClient(clientOptions(session))
    watched.watch(run)
    if (run.answered > 0 && !run.wasFinished) note(`rankmill: going on after ${run.answered} answers`)
    const report = await run.run(client)
    watched.end()
    if (!afterwards || report.status === 'interrupted') return report
    return (await afterwards(client, (next) => watched.watch(next))) ?? report
  } catch (error) {
    if (session || !opening.signal.aborted) throw error
    return { ...run.report(), status: 'interrupted' }
  } finally {
    watched.end()
    await run.close()
    await client?.close()
    await session?.stop(watched.isAborted)
    stopSignals()
    // What is left is to say how it ended: an impatient second Ctrl-C ends that, with the same code.
    if (opening.signal.aborted) process.once('SIGINT', () => process.exit(EXIT.interrupted))
  }
}

/**
 * Prints the report, keeps it beside the output, and sets the exit code.
 *
 * @param isNew false where nothing was done: a report that is there already stays as it is
 */
export async function reportRun(
  report: BatchReport,
  output: string | undefined,
  json: boolean,
  isNew: boolean,
): Promise<void> {
  if (output !== undefined && (isNew || !existsSync(reportOf(output)))) await writeReport(report, output)
  const { status, totals } = report
  if (json) (output === undefined ? process.stderr : process.stdout).write(`${JSON.stringify(report)}\n`)
  else for (const line of reportLines(report, output ?? 'standard output')) note(line)
  if (!json && !isNew && status === 'finished') note('rankmill: it was finished before: nothing was left to do')
  if (status === 'interrupted' && output !== undefined) note('rankmill: run the same command again to go on')
  process.exitCode = status === 'interrupted' ? EXIT.interrupted : totals.failed > 0 ? EXIT.failed : EXIT.done
}

async function writeReport(report: BatchReport, output: string): Promise<void> {
  const path = reportOf(output)
  // Whole or not at all: one that is there is not written again.
  const partial = `${output}.partial.${process.pid}`
  try {
    await writeFile(partial, `${JSON.stringify(report, null, 2)}\n`)
    await rename(partial, path)
  } catch (error) {
    await rm(partial, { force: true })
    throw unwritable(path, error)
  }
}

/** The run under way, its bar, and what signals do to both. */
class WatchedRun {
  readonly #json: boolean
  #run: BatchRun | undefined
  #view: BatchView | undefined
  #stopped = false
  isAborted = false

  constructor(json: boolean) {
    this.#json = json
  }

  /** @returns ends the bar of this run */
  watch(run: BatchRun): () => void {
    this.end()
    this.#run = run
    this.#view = watchBatch(run, this.#json)
    if (this.#stopped) run.stop()
    return () => this.end()
  }

  stop(message: string): void {
    this.#stopped = true
    note(`rankmill: ${message}`)
    this.#run?.stop()
  }

  abort(): void {
    this.isAborted = true
    this.#run?.abort()
  }

  end(): void {
    this.#view?.end()
    this.#view = undefined
  }
}
