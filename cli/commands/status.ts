/** `rankmill status`: queues by what serves them, and the workers, as they stand. */
import { Command } from 'commander'
import { type AwayShard, fleetState, type QueueState, type ShardState } from '../../monitoring/queue-collector.js'
import type { OptionName } from '../../shared/options.js'
import { describePool } from '../../shared/protocol/pool.js'
import type { WorkerInfo } from '../../shared/protocol/worker-info.js'
import { duration } from '../batch-view.js'
import { EXIT, note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'
import { seeShards } from '../seen-shards.js'
import { plainTable } from '../table.js'

const FLAGS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'shards', 'logLevel', 'commandTimeoutMs']

export function statusCommand(): Command {
  const command = new Command('status')
    .description('Queues by what serves them, what waits and why, and the live workers; once.')
    .option('--json', 'as one JSON object')
    .action(async () => run(command))
  return addOptions(command, FLAGS)
}

async function run(command: Command): Promise<void> {
  const options = optionsOf(command)
  const seen = await seeShards(options)
  try {
    const { queues, workers, shards, away: lost } = await fleetState(seen.shards)
    const away = [...seen.away, ...lost]
    if (away.length > 0) process.exitCode = EXIT.redis
    const areSeveral = shards.length + away.length > 1
    if (command.opts<{ json?: true }>().json) {
      const objects = [...shards.map(shardObject), ...away.map(awayObject)].sort((a, b) => a.shard - b.shard)
      const split = areSeveral ? { shards: objects } : {}
      process.stdout.write(`${JSON.stringify({ queues: queues.map(finite), workers, ...split })}\n`)
      return
    }
    process.stdout.write(`${queueTable(queues)}\n\n${workerTable(workers)}\n`)
    if (areSeveral) process.stdout.write(`\n${shardTable(shards, away)}\n`)
    for (const line of unservedLines(queues)) note(line)
    for (const { index, prefix, error } of away) {
      note(`rankmill: ${error.code}: shard ${index} (${prefix}) is not in these numbers: ${error.message}`)
    }
  } finally {
    seen.close()
  }
}

/** `waiting: no worker serves bge-m3`, for each pool of which that is true. */
export function unservedLines(queues: readonly QueueState[]): string[] {
  const pools = queues.filter((queue) => queue.workers === 0 && waitingIn(queue) > 0).map(({ pool }) => pool)
  return [...new Set(pools)].map((pool) => `rankmill: waiting: no worker serves ${describePool(pool)}`)
}

function waitingIn({ jobs }: QueueState): number {
  return jobs.waiting + jobs.prioritized + jobs.delayed
}

/** JSON knows no infinity: what nobody drains has no time. */
function finite(queue: QueueState): object {
  return { ...queue, secondsToDrain: Number.isFinite(queue.secondsToDrain) ? queue.secondsToDrain : null }
}

interface ShardObject {
  readonly shard: number
  readonly [field: string]: unknown
}

function shardObject({ shard, queues }: ShardState): ShardObject {
  return { shard: shard.index, prefix: shard.keys.prefix, queues: queues.map(finite) }
}

function awayObject({ index, prefix, error }: AwayShard): ShardObject {
  return { shard: index, prefix, error: error.toBody() }
}

/** How evenly it is spread. */
function shardTable(shards: readonly ShardState[], away: readonly AwayShard[]): string {
  const table = plainTable(['shard', 'prefix', 'waiting', 'active', 'failed', 'jobs/s'])
  const rows = shards.map(({ shard, queues }): [number, ...(string | number)[]] => {
    const sum = (of: (queue: QueueState) => number) => queues.reduce((total, queue) => total + of(queue), 0)
    const rate = sum(({ jobsPerSecond }) => jobsPerSecond).toFixed(1)
    const counts = [sum(waitingIn), sum(({ jobs }) => jobs.active), sum(({ jobs }) => jobs.failed)]
    return [shard.index, shard.keys.prefix, ...counts, rate]
  })
  for (const { index, prefix } of away) rows.push([index, prefix, '?', '?', '?', 'away'])
  table.push(...rows.sort((a, b) => a[0] - b[0]))
  return table.toString()
}

function queueTable(queues: readonly QueueState[]): string {
  const table = plainTable([
    'served by',
    'lane',
    'waiting',
    'active',
    'failed',
    'oldest',
    'jobs/s',
    'drained in',
    'workers',
  ])
  for (const queue of queues) {
    const { pool, lane, jobs, oldestWaitSeconds, jobsPerSecond, secondsToDrain, workers } = queue
    if (waitingIn(queue) + jobs.active + jobs.failed === 0 && workers === 0) continue
    const drained = Number.isFinite(secondsToDrain) ? duration(Math.ceil(secondsToDrain)) : 'never'
    const oldest = oldestWaitSeconds > 0 ? duration(Math.round(oldestWaitSeconds)) : '-'
    table.push([
      ...[describePool(pool), lane, waitingIn(queue), jobs.active, jobs.failed, oldest],
      ...[jobsPerSecond.toFixed(1), drained, workers],
    ])
  }
  return table.length > 0 ? table.toString() : 'no queue has anything to do, and no worker is alive'
}

function workerTable(workers: readonly WorkerInfo[]): string {
  if (workers.length === 0) return 'no worker is alive'
  const table = plainTable(['worker', 'models', 'jobs/s', 'metrics'])
  for (const { host, pid, models, jobsPerSecond, metricsUrl } of workers)
    table.push([`${host}/${pid}`, models.join(', '), jobsPerSecond.toFixed(1), metricsUrl || '-'])
  return table.toString()
}
