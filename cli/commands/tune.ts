/** `rankmill tune`: which way to rerank is the cheapest that keeps the wanted quality, on the user's own data. */
import { writeFile } from 'node:fs/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import MiniSearch from 'minisearch'
import { quantile } from 'simple-statistics'
import { RerankClient } from '../../producer/client.js'
import { type Qrels, readCorpus, readQrels, readQueries } from '../../producer/retrieval/beir.js'
import { readTrecRun } from '../../producer/retrieval/trec-run.js'
import { configurationsOf } from '../../producer/tune/configurations.js'
import type { TuningQuery } from '../../producer/tune/trial.js'
import { type TuningOutcome, type TuningProgress, tune } from '../../producer/tune/tuning.js'
import { RankmillError } from '../../shared/errors.js'
import { onSignals } from '../../shared/lifecycle.js'
import type { Options } from '../../shared/options.js'
import { listModels } from '../../worker/model/model-list.js'
import { modelSource } from '../../worker/model-source.js'
import { countArgument, redisIsGiven } from '../embedded/flags.js'
import { openSession } from '../embedded/session.js'
import { EXIT, note } from '../exit.js'
import { addOptions, optionsOf, WORKER_OPTIONS } from '../options.js'
import { numberArgument } from '../strategy-flags.js'
import { lengthHistogram, outcomeTable, tuneHtml } from '../tune-report.js'

interface TuneFlags {
  corpus: string
  queries: string
  run?: string
  qrels?: string
  sample: number
  depth: number
  within: number
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
    .requiredOption('--corpus <file>', 'passages: BEIR JSONL')
    .requiredOption('--queries <file>', 'queries: BEIR JSONL')
    .option('--run <file>', 'candidates: a TREC run (default: BM25 over the corpus, in memory)')
    .option('--qrels <file>', "judgements, BEIR or TREC (default: the full order's first 10 are the measure)")
    .addOption(new Option('--sample <n>', 'queries to measure with').argParser(numberArgument(1)).default(40))
    .addOption(new Option('--depth <n>', 'candidates of a query').argParser(numberArgument(2)).default(100))
    .addOption(
      new Option('--within <share>', 'quality that may be lost: 1% or 0.01')
        .argParser(shareArgument)
        .default(0.01, '1%'),
    )
    .option('--models <names>', 'models to try, the best first, divided by commas (default: those that ship)')
    .option('--filters <names>', 'bi-encoders to filter with, divided by commas, or none (default: those that ship)')
    .option('--dtypes <types>', 'number formats to try, the most exact first', 'fp32,int8')
    .option('--html <file>', 'write a page with the picture and the figures')
    .option('-o, --output <file>', 'write the recommendation as JSON: fields for requests, and the same as flags')
    .option('--json', 'all figures as JSON on standard output')
    .addOption(new Option('--workers <n>', 'workers to start (default: one for two cores)').argParser(countArgument))
    .action(async () => run(command))
  return addOptions(
    command,
    WORKER_OPTIONS.filter((name) => name !== 'model' && name !== 'filter' && name !== 'dtype' && name !== 'prefix'),
  )
}

async function run(command: Command): Promise<void> {
  const flags = command.opts<TuneFlags>()
  const shipped = await listModels(optionsOf(command))
  const models = flags.models?.split(',') ?? shippedNames(shipped, 'cross-encoder')
  const filters = flags.filters === 'none' ? [] : (flags.filters?.split(',') ?? shippedNames(shipped, 'bi-encoder'))
  const dtypes = flags.dtypes.split(',') as ('fp32' | 'int8')[]
  const options: Options = optionsOf(command, {
    model: models.join(','),
    ...(filters.length > 0 ? { filter: filters.join(',') } : {}),
    prefix: PREFIX,
    // What is known from an earlier request costs nothing, and says nothing of what a new one costs.
    scoreCacheTtlMs: 0,
    embeddingCacheBytes: 0,
  })
  const queries = await sampleOf(flags)
  const lengths = await tokenLengths(options, queries)
  note(lengthHistogram(lengths))
  const configurations = configurationsOf({
    models,
    dtypes,
    filters,
    depth: flags.depth,
    longTokens: quantile(lengths, 0.9),
  })
  note(`rankmill: ${configurations.length} configurations, ${queries.length} queries of ${flags.depth} candidates`)
  const outcome = await measure(command, options, configurations, queries, flags)
  if (flags.html) await writeFile(flags.html, tuneHtml(outcome, flags))
  if (flags.output) await writeFile(flags.output, `${JSON.stringify(recommendation(outcome), null, 2)}\n`)
  process.stdout.write(flags.json ? `${JSON.stringify(outcome)}\n` : outcomeTable(outcome))
}

async function measure(
  command: Command,
  options: Options,
  configurations: Parameters<typeof tune>[1],
  queries: readonly TuningQuery[],
  { within, workers }: TuneFlags,
): Promise<TuningOutcome> {
  const stopping = new AbortController()
  const session = await openSession(options, {
    embedded: true,
    always: true,
    redisGiven: redisIsGiven(command),
    workers,
  })
  const client = new RerankClient(session.options)
  const stopSignals = onSignals(
    () => stopping.abort(new RankmillError('cancelled', 'tuning was interrupted')),
    () => process.exit(EXIT.interrupted),
  )
  const onProgress = (progress: TuningProgress) => note(`rankmill: ${describe(progress)}`)
  try {
    return await tune(client, configurations, queries, {
      within,
      firstQueries: FIRST_QUERIES,
      signal: stopping.signal,
      onProgress,
    })
  } finally {
    await client.close()
    await session.stop(stopping.signal.aborted)
    stopSignals()
  }
}

function describe({ round, configurations, queries, done }: TuningProgress): string {
  return `round ${round}: ${configurations} configurations, query ${done} of ${queries}`
}

/** Queries with their candidates; with judgements, only those that have some. */
async function sampleOf({ corpus, queries, run, qrels, sample, depth }: TuneFlags): Promise<TuningQuery[]> {
  const judged = qrels === undefined ? undefined : await readQrels(qrels)
  const texts = new Map<string, string>()
  for await (const { id, text } of readQueries(queries)) if (!judged || judged.has(id)) texts.set(id, text)
  const candidates =
    run === undefined ? await retrieve(corpus, texts, sample, depth) : await fromRun(run, texts, sample, depth)
  const wanted = new Set([...candidates.values()].flat())
  const passages = new Map<string, string>()
  for await (const { id, text } of readCorpus(corpus, { only: wanted })) passages.set(id, text)
  const found = [...candidates].map(([id, docIds]): TuningQuery => {
    const documents = docIds.flatMap((docId) => {
      const text = passages.get(docId)
      return text === undefined ? [] : [{ id: docId, text }]
    })
    return { query: texts.get(id) ?? '', documents, grades: gradesOf(judged, id) }
  })
  const usable = found.filter(({ documents }) => documents.length > 1)
  if (usable.length === 0) {
    throw new RankmillError(
      'invalid_request',
      'queries: none has a text, candidates and, where asked for, judgements',
      {
        param: 'queries',
      },
    )
  }
  return usable
}

function gradesOf(judged: Qrels | undefined, id: string): ReadonlyMap<string, number> | undefined {
  return judged?.get(id)
}

async function fromRun(file: string, texts: ReadonlyMap<string, string>, sample: number, depth: number) {
  const run = await readTrecRun(file)
  const ids = spread(
    [...run.keys()].filter((id) => texts.has(id)),
    sample,
  )
  return new Map(ids.map((id) => [id, run.get(id)?.docIds.slice(0, depth) ?? []]))
}

async function retrieve(corpus: string, texts: ReadonlyMap<string, string>, sample: number, depth: number) {
  const index = new MiniSearch<{ id: string; text: string }>({ fields: ['text'] })
  for await (const { id, text } of readCorpus(corpus)) index.add({ id, text })
  const ids = spread([...texts.keys()], sample)
  const search = (id: string) =>
    index
      .search(texts.get(id) ?? '')
      .slice(0, depth)
      .map((hit) => String(hit.id))
  return new Map(ids.map((id) => [id, search(id)]))
}

/** So many of a list, from all over it. */
function spread<T>(list: readonly T[], count: number): T[] {
  if (list.length <= count) return [...list]
  return Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)] as T)
}

async function tokenLengths(options: Options, queries: readonly TuningQuery[]): Promise<number[]> {
  const source = modelSource(options)
  const model = await source.openModel(options.model.split(',')[0] ?? '', options.dtype)
  const tokenizer = await source.loadTokenizer(model)
  return queries.flatMap(({ documents }) => documents.map(({ text }) => tokenizer.encode(text, 100_000).ids.length))
}

function shippedNames(models: Awaited<ReturnType<typeof listModels>>, kind: string): string[] {
  const names = models.filter((model) => model.source === 'shipped' && model.kind === kind).map(({ name }) => name)
  return names.sort((a, b) => Number(b === BEST) - Number(a === BEST))
}

function recommendation({ recommended, measure, within }: TuningOutcome): object {
  const { configuration, qualityShare, confidence, speedup } = recommended
  return { request: configuration.fields, measured: { measure, within, qualityShare, confidence, speedup } }
}

function shareArgument(value: string): number {
  const share = value.endsWith('%') ? Number(value.slice(0, -1)) / 100 : Number(value)
  if (!(share >= 0 && share < 1)) throw new InvalidArgumentError('must be a share from 0 to 1, or a percentage')
  return share
}
