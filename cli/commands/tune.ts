/** `rankmill tune`: which way to rerank is the cheapest that keeps the wanted quality, on the user's own data. */
import { createRequire } from 'node:module'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { Command, InvalidArgumentError, Option } from 'commander'
import { RerankClient } from '../../producer/client.js'
import { nameOfAll } from '../../producer/lines/text-lines.js'
import type { Configuration } from '../../producer/tune/configurations.js'
import type { TuningQuery } from '../../producer/tune/trial.js'
import { type TuningOutcome, type TuningProgress, tune } from '../../producer/tune/tuning.js'
import { readTuningQueries } from '../../producer/tune/tuning-queries.js'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { DTYPES, type Dtype } from '../../shared/protocol/dtype.js'
import { listModels } from '../../worker/model/model-list.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { clientOptions, openSession } from '../embedded/session.js'
import { note } from '../exit.js'
import { type Interruption, interruptible } from '../interruption.js'
import { addOptions, optionsOf, WORKER_OPTIONS } from '../options.js'
import { checkResultFiles, writeResultFile } from '../result-files.js'
import { type RetrievalFiles, retrievalFiles } from '../retrieval-files.js'
import { checkModels } from '../served-models.js'
import { flagsOf, numberArgument } from '../strategy-flags.js'
import { prepareTuning } from '../tune-choices.js'
import { type Circumstances, tuneHtml } from '../tune-page.js'
import { adviceOf, lengthHistogram, outcomeTable } from '../tune-report.js'

interface TuneFlags {
  corpus?: string
  queries?: string
  run?: string
  qrels?: string
  sample: number
  depth: number
  within: number
  sure: number
  minQueries: number
  configurations: number
  maxSeconds: number
  dtypes: string
  models?: string
  filters?: string
  html?: string
  output?: string
  json?: true
  workers?: number
}

const FIRST_QUERIES = 6
const BEST = 'rankmill-small'
/** A queue and keys of its own: nobody else's requests are in the way, and no score is known already. */
const PREFIX = '{rankmill-tune}'

export function tuneCommand(): Command {
  const command = new Command('tune')
    .description('Measure the ways to rerank on your own queries, and recommend the cheapest that keeps the quality.')
    .argument(
      '[folder]',
      "a data set in BEIR's layout, its own or Hugging Face's (Parquet): corpus, queries, judgements of the test split",
    )
    .option('--corpus <file>', 'BEIR corpus (JSONL, CSV, TSV, Parquet)')
    .option('--queries <file>', 'BEIR queries (JSONL, CSV, TSV, Parquet)')
    .option('--run <file>', 'candidates: a TREC run (default: BM25 over the corpus, in memory)')
    .option('--qrels <file>', "judgements, BEIR or TREC (default: the full order's first 10 are the measure)")
    .addOption(new Option('--sample <n>', 'queries to measure with').argParser(numberArgument(1)).default(40))
    .addOption(new Option('--depth <n>', 'candidates of a query').argParser(numberArgument(2)).default(100))
    .addOption(
      new Option('--within <share>', 'quality that may be lost: 1% or 0.01')
        .argParser(shareArgument)
        .default(0.01, '1%'),
    )
    .addOption(
      new Option('--sure <share>', 'in how many resamplings of the queries the quality must be kept')
        .argParser(shareArgument)
        .default(0.95, '95%'),
    )
    .addOption(
      new Option('--min-queries <n>', 'of fewer queries seen nothing is told, and the defaults are kept')
        .argParser(numberArgument(1))
        .default(20),
    )
    .addOption(
      new Option('--configurations <n>', 'ways to try at most; each way alone is always tried')
        .argParser(numberArgument(1))
        .default(60),
    )
    .addOption(
      new Option('--max-seconds <n>', 'time for measuring; what is known by then is judged')
        .argParser(numberArgument(1))
        .default(900),
    )
    .option('--models <names>', 'models to try, the best first, divided by commas (default: those that ship)')
    .option('--filters <names>', 'bi-encoders to filter with, divided by commas, or none (default: those that ship)')
    .option('--dtypes <types>', 'number formats to try, the most exact first', 'fp32,int8')
    .option('--html <file>', 'write a page with the picture and the figures')
    .option('-o, --output <file>', 'write the recommendation as JSON: fields for requests, and the same as flags')
    .option('--json', 'all figures as JSON on standard output')
    .addOption(new Option('--workers <n>', 'workers to start (default: one for two cores)').argParser(countArgument))
    .action(async (folder: string | undefined) => run(command, folder))
  return addOptions(
    command,
    WORKER_OPTIONS.filter((name) => name !== 'model' && name !== 'filter' && name !== 'dtype' && name !== 'prefix'),
  )
}

async function run(command: Command, folder: string | undefined): Promise<void> {
  await interruptible('stopping', (interruption) => tuneWith(command, folder, interruption))
}

async function tuneWith(command: Command, folder: string | undefined, interruption: Interruption): Promise<void> {
  const flags = command.opts<TuneFlags>()
  const files = await retrievalFiles(flags, folder)
  const written = [flags.html, flags.output].filter((file) => file !== undefined)
  await checkResultFiles(written, [files.corpus, files.queries, files.run ?? [], files.qrels ?? []].flat())
  const shipped = await listModels(optionsOf(command))
  const models = flags.models?.split(',') ?? shippedNames(shipped, 'cross-encoder')
  const filters = flags.filters === 'none' ? [] : (flags.filters?.split(',') ?? shippedNames(shipped, 'bi-encoder'))
  const dtypes = flags.dtypes.split(',').map(dtypeNamed)
  const options: Options = optionsOf(command, {
    model: models.join(','),
    ...(filters.length > 0 ? { filter: filters.join(',') } : {}),
    prefix: PREFIX,
    // What is known from an earlier request costs nothing, and says nothing of what a new one costs.
    scoreCacheTtlMs: 0,
    embeddingCacheBytes: 0,
    embeddingCacheTtlMs: 0,
  })
  await checkModels(options)
  const queries = await readTuningQueries(files, flags.sample, flags.depth)
  interruption.signal.throwIfAborted()
  const wanted = { models, dtypes, filters, depth: flags.depth, most: flags.configurations }
  const { configurations, lengths } = await prepareTuning(options, wanted, queries)
  note(lengthHistogram(lengths))
  note(
    `rankmill: ${configurations.length} configurations, ${queries.length} queries of ${candidatesOf(queries)} candidates`,
  )
  const outcome = await measure(command, options, configurations, queries, flags, interruption)
  // First, so that it is there whatever becomes of the files.
  process.stdout.write(flags.json ? `${JSON.stringify(outcome)}\n` : outcomeTable(outcome))
  if (flags.html) await writeResultFile(flags.html, tuneHtml(outcome, circumstances(files, flags, options)))
  if (flags.output) await writeResultFile(flags.output, `${JSON.stringify(recommendation(outcome), null, 2)}\n`)
}

async function measure(
  command: Command,
  options: Options,
  configurations: readonly Configuration[],
  queries: readonly TuningQuery[],
  { within, sure, minQueries, maxSeconds, workers }: TuneFlags,
  { signal, forced }: Interruption,
): Promise<TuningOutcome> {
  const session = await openSession(options, {
    embedded: true,
    always: true,
    redisGiven: redisIsGiven(command),
    workers,
    signal,
  })
  forced.addEventListener('abort', () => void session.stop(true))
  const client = new RerankClient(clientOptions(session))
  const onProgress = (progress: TuningProgress) => note(`rankmill: ${describe(progress)}`)
  try {
    return await tune(client, configurations, queries, {
      within,
      sure,
      minQueries,
      firstQueries: FIRST_QUERIES,
      maxMs: maxSeconds * 1000,
      now: () => performance.now(),
      signal,
      onProgress,
    })
  } finally {
    await client.close()
    await session.stop(signal.aborted)
  }
}

/** `100`, or `12 to 100` where they have not the same number. */
function candidatesOf(queries: readonly TuningQuery[]): string {
  const counts = queries.map(({ documents }) => documents.length)
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)]
  return fewest === most ? `${most}` : `${fewest} to ${most}`
}

function describe({ round, configurations, queries, done }: TuningProgress): string {
  return `round ${round}: ${configurations} configurations, query ${done} of ${queries}`
}

function shippedNames(models: Awaited<ReturnType<typeof listModels>>, kind: string): string[] {
  const names = models.filter((model) => model.source === 'shipped' && model.kind === kind).map(({ name }) => name)
  return names.sort((a, b) => Number(b === BEST) - Number(a === BEST))
}

function recommendation(outcome: TuningOutcome): object {
  const { measure, within, baseline } = outcome
  const { recommended, fields } = adviceOf(outcome)
  const { queries, qualityShare, interval, confidence, speedup } = recommended ?? baseline
  const seen = recommended ? { queries, qualityShare, interval, confidence, speedup } : { queries }
  return { request: fields, flags: flagsOf(fields), measured: { measure, within, ...seen } }
}

function circumstances(
  files: RetrievalFiles,
  flags: TuneFlags,
  { model, filter, device, threads }: Options,
): Circumstances {
  const { run, qrels, corpus, queries } = files
  const version = (name: string) =>
    (createRequire(import.meta.url)(`${name}/package.json`) as { version: string }).version
  const [cpu] = cpus()
  return {
    Date: new Date().toISOString().replace('T', ' ').slice(0, 16).concat(' UTC'),
    Passages: nameOfAll(corpus),
    Queries: nameOfAll(queries),
    Candidates: `${run ?? "BM25's"}, ${flags.depth} a query`,
    Judgements: qrels ? nameOfAll(qrels) : "none: the full order's first 10 are the measure",
    Models: `${model}; filters: ${flags.filters === 'none' ? 'none' : filter}`,
    Machine: `${cpu?.model ?? 'CPU'}, ${availableParallelism()} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, ${process.platform} ${process.arch}; device ${device}, threads ${threads || 'all'}`,
    Versions: `Rankmill ${version('rankmill')}, ONNX Runtime ${version('onnxruntime-node')}, Node ${process.versions.node}`,
  }
}

function dtypeNamed(name: string): Dtype {
  const dtype = DTYPES.find((known) => known === name)
  if (dtype !== undefined) return dtype
  const message = `--dtypes: must be some of ${DTYPES.join(', ')}, divided by commas; got "${name}"`
  throw new RankmillError('invalid_configuration', message, { param: 'dtypes' })
}

function shareArgument(value: string): number {
  const share = value.endsWith('%') ? Number(value.slice(0, -1)) / 100 : Number(value)
  if (!(share >= 0 && share < 1)) throw new InvalidArgumentError('must be a share from 0 to 1, or a percentage')
  return share
}
