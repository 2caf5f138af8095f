/** `rankmill batch trec`: a retrieval run in, the same run reranked out, and what that changed. */
import { Command, Option } from 'commander'
import { fileOf } from '../../producer/batch/batch-file.js'
import { BatchRun } from '../../producer/batch/batch-run.js'
import { checkDestination, localOutputOf, refuseRead, uploadOf } from '../../producer/batch/delivery.js'
import { nameOfAll } from '../../producer/lines/text-lines.js'
import { type Qrels, readQrels } from '../../producer/retrieval/beir.js'
import { type Comparison, compareRuns } from '../../producer/retrieval/comparison.js'
import { withoutOverlap } from '../../producer/retrieval/qrels-overlap.js'
import { TrecSource, trecLines } from '../../producer/retrieval/trec-batch.js'
import type { SkippedParts } from '../../producer/retrieval/trec-requests.js'
import { readTrecRun, type TrecRun } from '../../producer/retrieval/trec-run.js'
import { RankmillError } from '../../shared/errors.js'
import { addBatchFlags, type BatchFlags, requestDefaults } from '../batch-flags.js'
import { reportRun, workOff } from '../batch-work.js'
import { note } from '../exit.js'
import { optionsOf } from '../options.js'
import { needed, type RetrievalFiles, retrievalFiles } from '../retrieval-files.js'
import { comparisonTable, differencePlot } from '../retrieval-report.js'
import { numberArgument } from '../strategy-flags.js'

interface BatchTrecFlags extends BatchFlags {
  corpus?: string
  queries?: string
  run?: string
  qrels?: string
  depth: number
  tag: string
  missing: 'error' | 'skip'
}

/** A corpus that workers read, by `corpus put` or `corpus build`, and no file to be read here. */
const STORED = /^(corpus:(?<name>.+)|(?<file>file:.+))$/

export function batchTrecCommand(): Command {
  const command = new Command('trec')
    .description('Rerank the first candidates of each query of a retrieval run. Run again after any end: it goes on.')
    .argument(
      '[folder]',
      "a data set in BEIR's layout, its own or Hugging Face's (Parquet): corpus, queries, judgements of the test split",
    )
    .option(
      '--corpus <file>',
      'BEIR corpus (JSONL, CSV, TSV, Parquet), or corpus:NAME for a stored one, or file:DIR for one that `corpus build` made',
    )
    .option('--queries <file>', 'BEIR queries (JSONL, CSV, TSV, Parquet)')
    .option('--run <file>', 'the run to rerank: TREC, six columns')
    .requiredOption('-o, --output <file>', 'the new run')
    .addOption(
      new Option('--depth <n>', 'candidates of each query that are reranked; the rest follow in their order')
        .argParser(numberArgument(1))
        .default(100),
    )
    .option('--qrels <file>', 'judgements (BEIR or TREC): prints nDCG@10, MRR@10, MAP and R@100 before and after')
    .option('--tag <text>', "the new run's name, its last column", 'rankmill')
    .addOption(
      new Option('--missing <what>', 'what to do where a query or passage is in no file: error, or skip')
        .choices(['error', 'skip'])
        .default('error'),
    )
    .action(async (folder: string | undefined) => run(command, folder))
  return addBatchFlags(command)
}

/** Read before any work: hours of it should not end at a typing error, or in a table of zeros. */
async function judgements({ qrels }: RetrievalFiles, run: TrecRun, isNamed: boolean): Promise<Qrels | undefined> {
  if (qrels === undefined) return undefined
  const read = await readQrels(qrels)
  const apart = withoutOverlap(read, run)
  if (apart === undefined) return read
  const message = `${nameOfAll(qrels)}: ${apart}`
  if (isNamed) throw new RankmillError('invalid_request', message, { param: 'qrels' })
  note(`rankmill: nothing is measured: ${message}`)
  return undefined
}

async function run(command: Command, folder: string | undefined): Promise<void> {
  const flags = command.opts<BatchTrecFlags>()
  const options = optionsOf(command)
  const json = flags.json === true
  const files = await retrievalFiles(flags, folder)
  const runFile = needed(files.run, 'run', folder)
  const output = localOutputOf(flags.output)
  const stored = typeof files.corpus === 'string' ? STORED.exec(files.corpus)?.groups : undefined
  const read = [runFile, files.queries, stored ? [] : files.corpus, files.qrels ?? []].flat()
  await refuseRead(flags.output, read)
  await checkDestination(flags.output, output, flags.overwrite === true)
  const before = await readTrecRun(runFile)
  const qrels = await judgements(files, before, flags.qrels !== undefined)
  const source = await TrecSource.open({
    corpus: stored ? { name: stored['name'] ?? stored['file'] ?? '' } : { file: files.corpus },
    queries: files.queries,
    run: before,
    runFile,
    maxPassageBytes: options.maxDocumentBytes,
    depth: flags.depth,
    missing: flags.missing,
    onSkipped: noteSkipped,
  })
  try {
    const opened = await BatchRun.open({
      source,
      output,
      format: trecLines(before, flags.tag),
      inputs: read.map(fileOf),
      inOrder: true,
      defaults: requestDefaults(command, options),
      missing: flags.missing,
      maxErrors: flags.maxErrors ?? Number.POSITIVE_INFINITY,
      overwrite: flags.overwrite ?? false,
      allowModelChange: flags.allowModelChange ?? false,
      allowCorpusChange: flags.allowCorpusChange ?? false,
      settings: { depth: flags.depth, tag: flags.tag },
      limits: options,
      delivery: uploadOf(flags.output),
    })
    const report = await workOff(command, options, opened, json)
    await reportRun(report, output, json, !opened.wasFinished)
    if (qrels && report.status === 'finished') {
      show(compareRuns(qrels, before, await readTrecRun(output)), json)
    }
  } finally {
    await source.close()
  }
}

function show(comparisons: readonly Comparison[], json: boolean): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ comparisons })}\n`)
    return
  }
  process.stdout.write(comparisonTable(comparisons))
  const [first] = comparisons
  if (first) process.stdout.write(`\n${differencePlot(first, process.stdout.columns)}`)
}

function noteSkipped(skipped: SkippedParts): void {
  const { unknownQueries, missingPassages, emptyQueries, cutPassages, mendedPassages } = skipped
  const parts = [
    [unknownQueries.length, 'queries without a text'],
    [missingPassages.length, 'candidates without a passage'],
    [emptyQueries.length, 'queries without candidates'],
  ].filter(([count]) => count !== 0)
  if (parts.length > 0) note(`rankmill: left out: ${parts.map((part) => part.join(' ')).join(', ')}`)
  if (cutPassages > 0) note(`rankmill: cut to --max-document-bytes: ${cutPassages} passages`)
  if (mendedPassages > 0) note(`rankmill: halves of characters replaced in ${mendedPassages} passages`)
}
