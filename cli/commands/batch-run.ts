/** `rankmill batch run`: a file of requests in, a file of answers out; run again after any end, it goes on. */
import { writeFile } from 'node:fs/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import { type BatchFileOptions, openBatch } from '../../producer/batch/batch-file.js'
import type { BatchReport } from '../../producer/batch/batch-report.js'
import type { BatchRun } from '../../producer/batch/batch-run.js'
import { retryFailed } from '../../producer/batch/retry-failed.js'
import { RerankClient } from '../../producer/client.js'
import { RankmillError } from '../../shared/errors.js'
import { onSignals } from '../../shared/lifecycle.js'
import type { Options } from '../../shared/options.js'
import { type BatchView, reportLines, watchBatch } from '../batch-view.js'
import { addEmbeddedFlags, openSessionFor } from '../embedded/flags.js'
import type { Session } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { addOptions, BATCH_OPTIONS, optionsOf, PRODUCER_OPTIONS, WORKER_OPTIONS } from '../options.js'

interface BatchRunFlags {
  output: string
  unordered?: true
  details?: true
  maxErrors?: number
  retryFailed?: true
  overwrite?: true
  json?: true
  topN?: number
  returnDocuments?: true
  maxTokensPerDoc?: number
  priority?: number
  deadlineMs?: number
}

const STANDARD = '-'

export function batchRunCommand(): Command {
  const command = new Command('run')
    .description(
      'Rerank every request of a JSONL file. Run the same command again after any end, kills included: it goes on.',
    )
    .argument(
      '<input>',
      'requests, one a line: OpenAI or Voyage batch lines, or bare requests; .gz, .zst, or - for standard input',
    )
    .requiredOption('-o, --output <file>', 'answers, one a line; .gz or .zst compress; - for standard output')
    .option('--unordered', 'write answers as they come, not in the order of the input')
    .option('--details', "write each answer's times and cache use; the same input then gives other bytes each time")
    .addOption(
      new Option('--max-errors <n>', 'stop when more requests than this have failed (default: never)').argParser(
        numberArgument(0),
      ),
    )
    .option('--retry-failed', 'run again what failed in a finished run, and put the answers in place')
    .option('--overwrite', 'begin anew where the output exists')
    .option('--json', 'report as JSON on standard output, progress as JSON lines on standard error')
    .addOption(
      new Option('--top-n <n>', 'results of requests that do not say (default: all)').argParser(numberArgument(1)),
    )
    .option('--return-documents', 'put the texts into the results of requests that do not say')
    .addOption(
      new Option(
        '--max-tokens-per-doc <n>',
        'tokens read of each document where a request does not say (default: as many as fit)',
      ).argParser(numberArgument(1)),
    )
    .addOption(
      new Option('--priority <n>', 'priority of requests that do not say: 0 first, 999 last (default: 500)').argParser(
        numberArgument(0),
      ),
    )
    .action(async (input: string) => run(command, input))
  addEmbeddedFlags(command)
  return addOptions(command, [...PRODUCER_OPTIONS, ...BATCH_OPTIONS, ...WORKER_OPTIONS])
}

async function run(command: Command, input: string): Promise<void> {
  const flags = command.opts<BatchRunFlags>()
  const options = optionsOf(command)
  const toFile = flags.output !== STANDARD
  if (flags.retryFailed && (!toFile || flags.overwrite)) {
    const message = `--retry-failed: ${toFile ? 'and --overwrite exclude each other' : 'needs an output file'}`
    throw new RankmillError('invalid_configuration', message, { param: 'retryFailed' })
  }
  const batch: BatchFileOptions = {
    input: input === STANDARD ? process.stdin : input,
    output: toFile ? flags.output : process.stdout,
    defaults: {
      model: command.getOptionValueSource('model') === 'cli' ? options.model : undefined,
      topN: flags.topN,
      returnDocuments: flags.returnDocuments,
      maxTokensPerDoc: flags.maxTokensPerDoc,
      priority: flags.priority,
    },
    unordered: flags.unordered,
    details: flags.details,
    maxErrors: flags.maxErrors,
    overwrite: flags.overwrite,
    options,
  }
  const run = await openBatch(batch)
  const report =
    run.wasFinished && !flags.retryFailed ? await leave(run) : await work(command, options, batch, run, flags)
  if (toFile) await writeFile(`${flags.output}.report.json`, `${JSON.stringify(report, null, 2)}\n`)
  if (flags.json) (toFile ? process.stdout : process.stderr).write(`${JSON.stringify(report)}\n`)
  else for (const line of reportLines(report, toFile ? flags.output : 'standard output')) note(line)
  process.exitCode = exitCodeOf(report)
  if (report.status === 'interrupted' && toFile) note('rankmill: run the same command again to go on')
}

/** The report of a run that was finished before. */
async function leave(run: BatchRun): Promise<BatchReport> {
  await run.close()
  return run.report()
}

async function work(
  command: Command,
  options: Options,
  batch: BatchFileOptions,
  run: BatchRun,
  { json, retryFailed: retries, output }: BatchRunFlags,
): Promise<BatchReport> {
  const watched = new WatchedRun(json === true)
  const stopSignals = onSignals(
    () => watched.stop('finishing what is under way; Ctrl-C again stops at once'),
    () => watched.abort(),
  )
  let session: Session | undefined
  let client: RerankClient | undefined
  try {
    session = await openSessionFor(command, options)
    client = new RerankClient(session.options)
    watched.watch(run)
    const report = await run.run(client)
    watched.end()
    if (!retries || report.status === 'interrupted') return report
    return (await retryFailed(client, { ...batch, output }, (retry) => watched.watch(retry))) ?? report
  } finally {
    watched.end()
    await run.close()
    await client?.close()
    await session?.stop(watched.isAborted)
    stopSignals()
    // A pipe that nobody closes would keep the process.
    if (batch.input === process.stdin) process.stdin.destroy()
  }
}

function exitCodeOf({ status, totals }: BatchReport): number {
  if (status === 'interrupted') return EXIT.interrupted
  return totals.failed > 0 ? EXIT.someFailed : EXIT.done
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

  watch(run: BatchRun): void {
    this.#run = run
    this.#view = watchBatch(run, this.#json)
    if (this.#stopped) run.stop()
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

function numberArgument(least: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!Number.isInteger(number) || number < least)
      throw new InvalidArgumentError(`must be a whole number of at least ${least}`)
    return number
  }
}
