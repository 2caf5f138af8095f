/** `rankmill demo`: the main job on real text; `npm run demo` installs, builds and comes here. */
import { once } from 'node:events'
import { SingleBar } from 'cli-progress'
import Table from 'cli-table3'
import { Command } from 'commander'
import MiniSearch from 'minisearch'
import { RerankClient, type RerankOutcome } from '../../producer/client.js'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { duration } from '../batch-view.js'
import { type Passage, packagesFolder, readPassages } from '../demo/passages.js'
import { QUESTIONS } from '../demo/questions.js'
import { addEmbeddedFlags, openSessionFor } from '../embedded/flags.js'
import { clientOptions, type Session } from '../embedded/session.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, optionsOf, PRODUCER_OPTIONS, WORKER_OPTIONS } from '../options.js'

const CANDIDATES = 100
/** Requests under way at once: enough to keep two workers busy, few enough to see them come back one by one. */
const WINDOW = 6
const SHOWN_QUESTIONS = 3
const SHOWN_PASSAGES = 3
const CORPUS = 'rankmill-demo'

interface Retrieved {
  readonly question: string
  readonly candidates: readonly Passage[]
}

export function demoCommand(): Command {
  const command = new Command('demo')
    .description('Rerank answers to 25 questions about the installed packages, from their own documentation.')
    .option('--fresh', 'forget the stored scores first')
    .option('--keep', 'stay up at the end, so that the metrics can be looked at; Ctrl-C ends')
    .action(async () => run(command))
  addEmbeddedFlags(command)
  return addOptions(command, [...PRODUCER_OPTIONS, ...WORKER_OPTIONS])
}

async function run(command: Command): Promise<void> {
  const options = optionsOf(command)
  const { fresh, keep, workers } = command.opts<{ fresh?: true; keep?: true; workers?: number }>()
  const folder = packagesFolder()
  const passages = await readPassages(folder)
  const retrieved = retrieve(passages)
  note(
    `demo: ${passages.length} passages from the installed packages' documentation; BM25 found ${CANDIDATES} candidates for each of ${QUESTIONS.length} questions`,
  )

  if (workers === undefined) command.setOptionValue('workers', 2)
  await interruptible('stopping', async ({ signal, forced }) => {
    const session = await openSessionFor(command, options, signal)
    forced.addEventListener('abort', () => void session.stop(true))
    const client = new RerankClient(clientOptions(session))
    try {
      if (fresh) await forgetScores(session.options)
      await client.putCorpus(CORPUS, passages)
      const startedAt = performance.now()
      const outcomes = await rerankAll(client, retrieved, signal)
      const seconds = (performance.now() - startedAt) / 1000
      show(retrieved, outcomes)
      await sumUp(outcomes, seconds, session)
      if (keep) await untilInterrupted(session, signal)
    } finally {
      await client.close()
      await session.stop(signal.aborted)
    }
  })
}

function retrieve(passages: readonly Passage[]): Retrieved[] {
  const index = new MiniSearch<{ id: number; text: string }>({ fields: ['text'] })
  index.addAll(passages.map(({ text }, id) => ({ id, text })))
  return QUESTIONS.map((question) => ({
    question,
    candidates: index
      .search(question)
      .slice(0, CANDIDATES)
      .flatMap(({ id }) => passages[id as number] ?? []),
  }))
}

/** Every other request names its passages in the stored corpus instead of carrying them. */
function* requests(retrieved: readonly Retrieved[]): Generator<RerankInput> {
  for (const [i, { question, candidates }] of retrieved.entries()) {
    const documents = i % 2 === 0 ? { corpus: CORPUS, ids: candidates.map(({ id }) => id) } : candidates
    yield { query: question, documents }
  }
}

async function rerankAll(
  client: RerankClient,
  retrieved: readonly Retrieved[],
  signal: AbortSignal,
): Promise<RerankOutcome[]> {
  const total = retrieved.reduce((sum, { candidates }) => sum + candidates.length, 0)
  const bar = new SingleBar({
    format: 'demo: {bar} {value}/{total} pairs | {speed} pairs/s | ETA {rest}',
    stream: process.stderr,
    noTTYOutput: true,
    notTTYSchedule: 10_000,
    hideCursor: true,
    gracefulExit: false,
  })
  // Nothing is known of the speed before the first answer.
  bar.start(total, 0, { speed: '–', rest: '–' })
  const startedAt = performance.now()
  const outcomes: RerankOutcome[] = []
  let pairs = 0
  try {
    for await (const outcome of client.rerankAll(requests(retrieved), { window: WINDOW, signal })) {
      outcomes.push(outcome)
      pairs += retrieved[outcome.position]?.candidates.length ?? 0
      const speed = (pairs / (performance.now() - startedAt)) * 1000
      bar.update(pairs, { speed: Math.round(speed), rest: duration(Math.ceil((total - pairs) / speed)) })
    }
  } finally {
    bar.stop()
  }
  return outcomes.sort((a, b) => a.position - b.position)
}

function show(retrieved: readonly Retrieved[], outcomes: readonly RerankOutcome[]): void {
  const width = Math.max(60, Math.min(140, process.stdout.columns ?? 120))
  for (let i = 0; i < SHOWN_QUESTIONS; i++) {
    const { question, candidates } = retrieved[i] ?? { question: '', candidates: [] }
    const results = outcomes[i]?.result?.results ?? []
    const table = new Table({
      head: ['', 'BM25', 'after reranking'],
      colWidths: [4, Math.floor(width / 2) - 4, Math.floor(width / 2) - 4],
      wordWrap: true,
      style: { head: [], border: process.stdout.isTTY ? ['grey'] : [] },
    })
    for (let place = 0; place < SHOWN_PASSAGES; place++) {
      const best = results[place]
      const after = best ? `${best.relevance_score.toFixed(3)} ${shownPassage(candidates[best.index])}` : ''
      table.push([place + 1, shownPassage(candidates[place]), after])
    }
    process.stdout.write(`\n${question}\n${table.toString()}\n`)
  }
}

function shownPassage(passage: Passage | undefined): string {
  if (!passage) return ''
  const text = passage.text.replace(/\s+/g, ' ')
  return `${text.length > 110 ? `${text.slice(0, 109)}…` : text}\n(${passage.id})`
}

/** The line of totals, and whether the workers' own counters say the same. */
async function sumUp(
  outcomes: readonly RerankOutcome[],
  seconds: number,
  { metrics, metricsUrl }: Session,
): Promise<void> {
  const results = outcomes.flatMap(({ result }) => result ?? [])
  const sum = (field: 'pairs' | 'tokens' | 'cached') => results.reduce((total, { usage }) => total + usage[field], 0)
  const [pairs, tokens, cached] = [sum('pairs'), sum('tokens'), sum('cached')]
  const times = results.map(({ timings_ms }) => timings_ms.total).sort((a, b) => a - b)
  const percentile = (p: number) => ((times[Math.ceil(times.length * p) - 1] ?? 0) / 1000).toFixed(2)
  process.stdout.write(
    `\n${results.length} requests, ${pairs} pairs, ${tokens} tokens, ${cached} cached, ` +
      `${Math.round(pairs / seconds)} pairs/s, p50 ${percentile(0.5)} s, p95 ${percentile(0.95)} s\n`,
  )
  for (const { error } of outcomes) if (error) throw error
  if (!metrics || !metricsUrl) return
  const counted = {
    requests: await metrics.total('rankmill_request_duration_seconds_count', { outcome: 'completed' }),
    pairs: await metrics.total('rankmill_pairs_total'),
    tokens: await metrics.total('rankmill_tokens_total'),
    cached: await metrics.total('rankmill_pairs_total', { source: 'cache' }),
  }
  const agrees =
    counted.requests === results.length &&
    counted.pairs === pairs &&
    counted.tokens === tokens &&
    counted.cached === cached
  const { requests: done, pairs: scored, tokens: read, cached: known } = counted
  process.stdout.write(
    `${agrees ? 'the same as' : 'NOT the same as'} the workers' metrics at ${metricsUrl}: ` +
      `${done} requests, ${scored} pairs, ${read} tokens, ${known} cached\n`,
  )
  if (!agrees) throw new RankmillError('internal', 'the metrics do not agree with the results')
}

async function forgetScores(options: Options): Promise<void> {
  const shards = await Shards.open(options, connectProducer, 'observer')
  try {
    for (const { redis, keys } of shards.all) {
      const pattern = `${keys.prefix.replace(/[[\]?*\\]/g, '\\$&')}:scores:*`
      for await (const found of redis.scanStream({ match: pattern, count: 1000 })) {
        if ((found as string[]).length > 0) await redis.unlink(found as string[])
      }
    }
  } finally {
    shards.close()
  }
}

async function untilInterrupted(session: Session, signal: AbortSignal): Promise<void> {
  note(`demo: staying up for ${session.metricsUrl ?? 'the workers'}; Ctrl-C ends`)
  if (!signal.aborted) await once(signal, 'abort')
}
