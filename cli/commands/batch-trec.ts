/** `rankmill batch trec`: a retrieval run in, the same run reranked out, and what that changed. */
import { Command, Option } from 'commander'
import { BatchRun } from '../../producer/batch/batch-run.js'
import { readQrels } from '../../producer/retrieval/beir.js'
import { type Comparison, compareRuns } from '../../producer/retrieval/comparison.js'
import { TrecSource, trecLines } from '../../producer/retrieval/trec-batch.js'
import type { SkippedParts } from '../../producer/retrieval/trec-requests.js'
import { readTrecRun } from '../../producer/retrieval/trec-run.js'
import { addBatchFlags, type BatchFlags, requestDefaults } from '../batch-flags.js'
import { reportRun, workOff } from '../batch-work.js'
import { note } from '../exit.js'
import { optionsOf } from '../options.js'
import { comparisonTable, differencePlot } from '../retrieval-report.js'
import { numberArgument } from '../strategy-flags.js'

interface BatchTrecFlags extends BatchFlags {
  corpus: string
  queries: string
  run: string
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
    .requiredOption(
      '--corpus <file>',
      'BEIR corpus (JSONL), or corpus:NAME for a stored one, or file:DIR for one that `corpus build` made',
    )
    .requiredOption('--queries <file>', 'BEIR queries (JSONL)')
    .requiredOption('--run <file>', 'the run to rerank: TREC, six columns')
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
    .action(async () => run(command))
  return addBatchFlags(command)
}

async function run(command: Command): Promise<void> {
  const flags = command.opts<BatchTrecFlags>()
  const options = optionsOf(command)
  const json = flags.json === true
  const before = await readTrecRun(flags.run)
  // Read first: hours of work should not end at a typing error.
  const qrels = flags.qrels === undefined ? undefined : await readQrels(flags.qrels)
  const stored = STORED.exec(flags.corpus)?.groups
  const source = await TrecSource.open({
    corpus: stored ? { name: stored['name'] ?? stored['file'] ?? '' } : { file: flags.corpus },
    queries: flags.queries,
    run: before,
    runFile: flags.run,
    depth: flags.depth,
    missing: flags.missing,
    onSkipped: noteSkipped,
  })
  try {
    const opened = await BatchRun.open({
      source,
      output: flags.output,
      format: trecLines(before, flags.tag),
      inputs: [flags.run, flags.queries, ...(stored ? [] : [flags.corpus]), ...(flags.qrels ? [flags.qrels] : [])],
      inOrder: true,
      defaults: requestDefaults(command, options),
      missing: flags.missing,
      maxErrors: flags.maxErrors ?? Number.POSITIVE_INFINITY,
      overwrite: flags.overwrite ?? false,
      allowModelChange: flags.allowModelChange ?? false,
      allowCorpusChange: flags.allowCorpusChange ?? false,
      settings: { depth: flags.depth, tag: flags.tag },
      limits: options,
    })
    const report = await workOff(command, options, opened, json)
    await reportRun(report, flags.output, json, !opened.wasFinished)
    if (qrels && report.status === 'finished') {
      show(compareRuns(qrels, before, await readTrecRun(flags.output)), json)
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

function noteSkipped({ unknownQueries, missingPassages, emptyQueries }: SkippedParts): void {
  const parts = [
    [unknownQueries.length, 'queries without a text'],
    [missingPassages.length, 'candidates without a passage'],
    [emptyQueries.length, 'queries without candidates'],
  ].filter(([count]) => count !== 0)
  if (parts.length > 0) note(`rankmill: left out: ${parts.map((part) => part.join(' ')).join(', ')}`)
}
