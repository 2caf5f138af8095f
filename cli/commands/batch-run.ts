/** `rankmill batch run`: a file of requests in, a file of answers out; run again after any end, it goes on. */
import { mkdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { Command, Option } from 'commander'
import { type BatchFileOptions, checkBatch, openBatch } from '../../producer/batch/batch-file.js'
import { checkInputs, filesOf, isFolderOutput } from '../../producer/batch/batch-inputs.js'
import type { BatchReport } from '../../producer/batch/batch-report.js'
import { localOutputOf } from '../../producer/batch/delivery.js'
import { retryFailed } from '../../producer/batch/retry-failed.js'
import { REQUEST_COLUMNS } from '../../producer/batch/row-source.js'
import { isS3 } from '../../producer/lines/s3-object.js'
import { RankmillError } from '../../shared/errors.js'
import { addBatchFlags, type BatchFlags, requestDefaults } from '../batch-flags.js'
import { type Afterwards, reportRun, workOff } from '../batch-work.js'
import { optionsOf } from '../options.js'
import { numberArgument } from '../strategy-flags.js'

interface BatchRunFlags extends BatchFlags {
  queryColumn: string
  documentsColumn: string
  unordered?: true
  details?: true
  retryFailed?: true
  topN?: number
  returnDocuments?: true
  missing?: 'error' | 'skip'
}

const STANDARD = '-'
/** Other names of it, under which no file beside it could be kept. */
const STANDARD_NAMES = ['/dev/stdout', '/dev/fd/1', '/proc/self/fd/1']

export function batchRunCommand(): Command {
  const command = new Command('run')
    .description('Rerank every request of files. Run the same command again after any end, kills included: it goes on.')
    .argument(
      '<inputs...>',
      "requests, one a line: OpenAI or Voyage batch lines, or bare requests; or tables: .csv, .tsv, .parquet; .gz, .zst, patterns ('part-*.jsonl.gz'), or - for standard input",
    )
    .requiredOption(
      '-o, --output <file>',
      'answers, one a line, or a table (.csv, .tsv, .parquet) of the input with them; .gz or .zst compress; - for standard output; a folder: a file for each input',
    )
    .option('--query-column <name>', "column of a table that holds a row's query", REQUEST_COLUMNS.query)
    .option(
      '--documents-column <name>',
      'column that holds its documents: a list of texts, or of records with text, title and _id (CSV, TSV: as JSON)',
      REQUEST_COLUMNS.documents,
    )
    .option('--unordered', 'write answers as they come, not in the order of the input')
    .option('--details', "write each answer's times and cache use; the same input then gives other bytes each time")
    .option('--retry-failed', 'run again what failed in a finished run, and put the answers in place')
    .addOption(
      new Option('--top-n <n>', 'results of requests that do not say (default: all)').argParser(numberArgument(1)),
    )
    .option('--return-documents', 'put the texts into the results of requests that do not say')
    .addOption(
      new Option(
        '--missing <what>',
        'what becomes of ids that a corpus lacks, where a request does not say: error, or skip (default: error)',
      ).choices(['error', 'skip']),
    )
    .action(async (inputs: string[]) => run(command, inputs))
  return addBatchFlags(command)
}

/** One run: its inputs, and its output. */
interface Job {
  readonly files: readonly string[]
  readonly output: string
}

async function run(command: Command, inputs: string[]): Promise<void> {
  const given = command.opts<BatchRunFlags>()
  const flags = STANDARD_NAMES.includes(given.output) ? { ...given, output: STANDARD } : given
  const options = optionsOf(command)
  const json = flags.json === true
  const jobs = await jobsOf(inputs, flags, options.maxLineBytes)
  if (flags.retryFailed) checkRetry(jobs, flags)
  const read = jobs.flatMap(({ files }) => files)
  const batchOf = ({ files, output }: Job): BatchFileOptions => ({
    input: files[0] === STANDARD && files.length === 1 ? process.stdin : files,
    output: output === STANDARD ? process.stdout : output,
    columns: { query: flags.queryColumn, documents: flags.documentsColumn },
    defaults: { ...requestDefaults(command, options), topN: flags.topN, returnDocuments: flags.returnDocuments },
    missing: flags.missing,
    unordered: flags.unordered,
    details: flags.details,
    maxErrors: flags.maxErrors,
    overwrite: flags.overwrite,
    allowModelChange: flags.allowModelChange,
    allowCorpusChange: flags.allowCorpusChange,
    options,
  })
  // All of them, before the first is begun.
  for (const job of jobs) await checkBatch(batchOf(job), options.maxLineBytes, read)
  const finish = async (report: BatchReport, { output }: Job, isNew: boolean): Promise<void> => {
    const before = Number(process.exitCode ?? 0)
    await reportRun(report, output === STANDARD ? undefined : localOutputOf(output), json, isNew)
    process.exitCode = Math.max(before, Number(process.exitCode))
  }
  try {
    const [first, ...others] = jobs
    await runJobs(first, others)
  } finally {
    // A pipe that nobody closes would keep the process.
    if (inputs.includes(STANDARD)) process.stdin.destroy()
  }

  async function runJobs(first: Job, others: readonly Job[]): Promise<void> {
    const opened = await openBatch(batchOf(first))
    const [second, ...further] = others
    if (opened.wasFinished && second) {
      // Nothing needs to be started for it.
      await opened.close()
      await finish(opened.report(), first, false)
      return runJobs(second, further)
    }
    /** With the Redis and the workers of the first. */
    const runOthers: Afterwards = async (client, watch) => {
      await finish(opened.report(), first, true)
      for (const job of others) {
        const next = await openBatch(batchOf(job))
        const unwatch = watch(next)
        const report = await next.run(client)
        unwatch()
        await finish(report, job, !next.wasFinished)
        if (report.status === 'interrupted') break
      }
      return undefined
    }
    const retry = flags.retryFailed ? retrying(batchOf(first), first.output) : undefined
    const afterwards = retry ?? (second ? runOthers : undefined)
    const report = await workOff(command, options, opened, json, afterwards)
    if (!second || report.status === 'interrupted') {
      await finish(report, first, !opened.wasFinished || retry !== undefined)
    }
  }
}

/** All inputs to one output, or, where that is a folder, each to a file of its own in it. */
async function jobsOf(
  inputs: readonly string[],
  { output, queryColumn, documentsColumn }: BatchRunFlags,
  maxLineBytes: number,
): Promise<readonly [Job, ...Job[]]> {
  const files = await filesOf(inputs, output)
  if (!(await isFolderOutput(output))) return [{ files, output }]
  const jobs = files.map((file) => {
    const name = basename(file)
    return { files: [file], output: isS3(output) ? `${output}${name}` : join(output, name) }
  })
  const outputs = jobs.map((job) => job.output)
  const twice = outputs.find((path, i) => outputs.indexOf(path) !== i)
  if (twice !== undefined) throw usage('output', `${twice}: would be the output of two inputs`)
  const [first, ...others] = jobs
  if (!first || files.includes(STANDARD)) throw usage('output', `${output}: is a folder, which needs files as inputs`)
  await checkInputs(files, maxLineBytes, { query: queryColumn, documents: documentsColumn })
  if (!isS3(output)) await mkdir(output, { recursive: true })
  return [first, ...others]
}

function usage(param: string, message: string): RankmillError {
  return new RankmillError('invalid_configuration', message, { param })
}

function checkRetry(jobs: readonly Job[], { output, overwrite }: BatchRunFlags): void {
  const refuse = (why: string): never => {
    throw usage('retryFailed', `--retry-failed: ${why}`)
  }
  if (jobs.length > 1) refuse('works on one output at a time')
  if (jobs.some(({ files }) => files.includes(STANDARD))) refuse('reads the input again, and so needs a file')
  if (overwrite) refuse('and --overwrite exclude each other')
  if (output === STANDARD) refuse('needs an output file')
}

function retrying(batch: BatchFileOptions, output: string): Afterwards {
  return (client, watch) => retryFailed(client, { ...batch, output }, watch)
}
