/** `rankmill plan`: what fleet some work needs in some time, from this machine's speed and the queue's state. */
import { availableParallelism, cpus } from 'node:os'
import { Command, InvalidArgumentError, Option } from 'commander'
import { fleetState } from '../../monitoring/queue-collector.js'
import { type FleetState, type Plan, planFleet, type Workload } from '../../producer/capacity/plan.js'
import { RankmillError } from '../../shared/errors.js'
import { makeLogger } from '../../shared/logger.js'
import type { OptionName, Options } from '../../shared/options.js'
import { firstModel, plainPool } from '../../shared/protocol/pool.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { chooseDevice } from '../../worker/inference/device.js'
import { type KeptShape, listShapes } from '../../worker/inference/kept-shape.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { openModel } from '../../worker/model/model.js'
import { bytesText, countArgument, withinArgument } from '../amounts.js'
import { duration } from '../batch-view.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, optionsOf } from '../options.js'
import { plainTable } from '../table.js'

const FLAGS: readonly OptionName[] = [
  ...(['redis', 'prefix', 'queue', 'logLevel', 'commandTimeoutMs'] as const),
  ...(['model', 'dtype', 'device', 'threads', 'calibrateMs', 'cacheDir', 'callTimeoutMs'] as const),
  ...(['resultTtlMs', 'scoreCacheTtlMs', 'sharedScoreCacheEntries', 'maxWindowRequests', 'maxWindowBytes'] as const),
]
const USUAL = { tokens: 200, requestPairs: 100, reserve: 20 }
/** Of English in these models' vocabularies; the query's share of a pair is small. */
const BYTES_PER_TOKEN = 4.5

interface PlanFlags {
  pairs: number
  by: number
  tokens: number
  requestPairs: number
  documentBytes?: number
  reserve: number
  price?: number
  json?: true
}

/** What is known of the fleet's Redis; undefined where none is reached. */
type Queue = Omit<FleetState, 'tokensPerSecond'> | undefined

export function planCommand(): Command {
  const count = (flags: string, help: string, usual: number) =>
    new Option(flags, help).argParser(countArgument).default(usual)
  const command = new Command('plan')
    .description('How many workers like this machine some work needs, what Redis holds meanwhile, and what it costs.')
    .requiredOption('--pairs <n>', 'pairs to score: 250000, 250k, 10M', countArgument)
    .requiredOption('--by <time>', 'until when: 8h, 1h30m, or a moment such as 2027-01-31T06:00', withinArgument)
    .addOption(count('--tokens <n>', 'tokens of a pair, on average', USUAL.tokens))
    .addOption(count('--request-pairs <n>', 'candidates of a request', USUAL.requestPairs))
    .option('--document-bytes <n>', `length of a document (default: ${BYTES_PER_TOKEN} a token)`, countArgument)
    .addOption(
      new Option('--reserve <percent>', "of the workers' time, kept free")
        .argParser(reserveArgument)
        .default(USUAL.reserve),
    )
    .option('--price <amount>', 'of a worker for an hour', priceArgument)
    .option('--json', 'as one JSON object')
    .action(async () => interruptible('stopping', ({ signal }) => run(command, signal)))
  return addOptions(command, FLAGS)
}

async function run(command: Command, signal: AbortSignal): Promise<void> {
  const flags = command.opts<PlanFlags>()
  const options = { ...optionsOf(command), threads: optionsOf(command).threads || availableParallelism() }
  const work: Workload = {
    pairs: flags.pairs,
    tokensPerPair: flags.tokens,
    pairsPerRequest: flags.requestPairs,
    bytesPerDocument: flags.documentBytes ?? Math.round(flags.tokens * BYTES_PER_TOKEN),
    seconds: flags.by,
    reserve: flags.reserve / 100,
  }
  const queue = await queueOf(options)
  const speed = await speedOf(options, signal)
  const planOf = ({ tokensPerSecond }: KeptShape) =>
    planFleet(work, { tokensPerSecond, queuedJobs: 0, liveWorkers: 0, ...queue }, options)
  const plan = planOf(speed)
  const others = (await listShapes(options.cacheDir))
    .filter((kept) => kept.device === speed.device && kept.threads === speed.threads)
    .filter((kept) => kept.model !== speed.model || kept.dtype !== speed.dtype)
  const newest = new Map(others.reverse().map((kept) => [`${kept.model} ${kept.dtype}`, kept]))
  const alternatives = [...newest.values()].map((kept) => ({ speed: kept, plan: planOf(kept) }))
  if (flags.json) {
    const machine = cpus()[0]?.model.trim()
    const cost = flags.price === undefined ? {} : { cost: flags.price * plan.workerHours }
    const said = { work, machine, speed, queue: queue ?? null, plan: finite(plan), ...cost, alternatives }
    process.stdout.write(`${JSON.stringify(said)}\n`)
    return
  }
  process.stdout.write(`${linesOf(work, speed, queue, plan, flags.price, options).join('\n')}\n`)
  if (alternatives.length > 0) {
    const table = plainTable(['or with', 'format', 'pairs/s', 'workers', 'busy', 'worker hours'])
    for (const { speed: kept, plan: other } of alternatives) {
      const { pairsPerSecondOfWorker, workers, busy, workerHours } = other
      table.push([kept.model, kept.dtype, rate(pairsPerSecondOfWorker), workers, percent(busy), hours(workerHours)])
    }
    process.stdout.write(`\n${table.toString()}\n`)
  }
}

/** What calibration keeps of this machine and model; measured now where it keeps nothing that is worth something. */
async function speedOf(options: Options, signal: AbortSignal): Promise<KeptShape> {
  const { cacheDir, threads } = options
  const log = makeLogger(options.logLevel, 'rankmill-plan')
  const { device, halves } = await chooseDevice(options.device, log)
  const opening = { dtype: options.dtype, device, halves, cacheDir, allowHub: true }
  const model = await openModel(firstModel(options.model), opening)
  const find = async () =>
    (await listShapes(cacheDir)).find(
      (kept) =>
        kept.model === model.name && kept.dtype === model.dtype && kept.device === device && kept.threads === threads,
    )
  const kept = await find()
  if (kept && !kept.busy) return kept
  signal.throwIfAborted()
  note(`rankmill: measuring ${model.name} in ${model.dtype} on this machine`)
  // Nothing given by options is measured, so nothing is given.
  const open = { sessions: 0, batchPairs: 0, batchTokens: 0, calibrate: true }
  const engine = await createEngine(model, { ...options, ...open, device, threads, log })
  await engine.close()
  const measured = await find()
  if (!measured) {
    const message = `calibrateMs: nothing was measured within ${options.calibrateMs}; give it longer`
    throw new RankmillError('invalid_configuration', message, { param: 'calibrateMs' })
  }
  return measured
}

async function queueOf(options: Options): Promise<Queue> {
  const shards = await Shards.open(options, connectProducer, 'observer').catch((error) => {
    if (!(error instanceof RankmillError) || error.code !== 'redis_unavailable') throw error
    note('rankmill: no Redis is reached: planned as if nothing waited and no worker were alive (--redis URL)')
    return undefined
  })
  if (!shards) return undefined
  try {
    const pool = plainPool(firstModel(options.model))
    const { queues, away } = await fleetState(shards.all)
    // A plan for a part of what waits would be wrong.
    if (away[0]) throw away[0].error
    const lanes = queues.filter((lane) => lane.pool === pool)
    const queuedJobs = lanes.reduce((sum, { jobs }) => sum + jobs.waiting + jobs.prioritized + jobs.delayed, 0)
    return { queuedJobs, liveWorkers: lanes[0]?.workers ?? 0 }
  } finally {
    shards.close()
  }
}

function linesOf(
  work: Workload,
  { model, dtype, threads, measuredAt, busy }: KeptShape,
  queue: Queue,
  plan: Plan,
  price: number | undefined,
  { resultTtlMs }: Options,
): string[] {
  const { redis } = plan
  const others = busy ? ' while others kept it busy, so it can do more' : ''
  const queued = queue?.queuedJobs ? `, and ${count(queue.queuedJobs)} jobs that wait already` : ''
  const reserve = work.reserve > 0 ? `, with ${percent(work.reserve)} in reserve` : ''
  const alive = queue?.liveWorkers
    ? `alive     ${queue.liveWorkers} worker${queue.liveWorkers === 1 ? '' : 's'}: ${time(plan.secondsByLiveWorkers)} if like this machine` +
      (plan.secondsByLiveWorkers > work.seconds ? `, ${time(plan.secondsByLiveWorkers - work.seconds)} late` : '')
    : undefined
  const shards = redis.shards > 1 ? `; ${redis.shards} shards, so that none is too busy` : ''
  return [
    `work      ${count(work.pairs)} pairs of ${work.tokensPerPair} tokens in ${time(work.seconds)}${queued}: ${rate(plan.pairsPerSecondNeeded)} pairs/s`,
    `a worker  ${rate(plan.pairsPerSecondOfWorker)} pairs/s: ${model} ${dtype}, ${threads} threads, measured here ${new Date(measuredAt).toISOString().slice(0, 10)}${others}`,
    `needed    ${count(plan.workers)} worker${plan.workers === 1 ? '' : 's'}${reserve}: done in ${time(plan.secondsTaken)} if all goes well`,
    ...(alive ? [alive] : []),
    `Redis     ${rate(redis.busy * 100)} % of a core for ${rate(plan.requestsPerSecond)} requests/s${shards}`,
    `memory    ${bytesText(redis.bytes.all)}: ${bytesText(redis.bytes.waiting)} waiting in a batch's window, ${bytesText(redis.bytes.results)} results of ${time(resultTtlMs / 1000)}, ${bytesText(redis.bytes.scores)} cached scores`,
    ...(plan.producers > 1 ? [`producers ${plan.producers} processes submit and read at that rate`] : []),
    `cost      ${hours(plan.workerHours)} worker hours${price === undefined ? '' : `, ${(price * plan.workerHours).toFixed(2)} at ${price} an hour`}`,
  ]
}

/** JSON knows no infinity: what nobody does is never done. */
function finite(plan: Plan): object {
  const { secondsByLiveWorkers: live } = plan
  return { ...plan, secondsByLiveWorkers: Number.isFinite(live) ? live : null }
}

function reserveArgument(value: string): number {
  const percentage = Number(value)
  if (!(percentage >= 0 && percentage < 100)) throw new InvalidArgumentError('must be a number from 0 to below 100')
  return percentage
}

function priceArgument(value: string): number {
  const price = Number(value)
  if (!(price > 0)) throw new InvalidArgumentError('must be a number above 0')
  return price
}

const count = (value: number) => value.toLocaleString('en')
const percent = (share: number) => `${Math.round(100 * share)} %`
const time = (seconds: number) => duration(Math.ceil(seconds))
const hours = (value: number) => value.toFixed(value < 10 ? 1 : 0)
const rate = (value: number) => (value < 10 ? value.toFixed(1) : count(Math.round(value)))
