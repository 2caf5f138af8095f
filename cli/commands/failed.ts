/** `rankmill failed`: jobs that ended as failed, and what to do with them. */
import type { Job } from 'bullmq'
import Table from 'cli-table3'
import { Command, Option } from 'commander'
import type { Redis } from 'ioredis'
import { RankmillError } from '../../shared/errors.js'
import type { OptionName } from '../../shared/options.js'
import { candidateCount } from '../../shared/protocol/documents.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { type Keys, keysOf } from '../../shared/protocol/keys.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { LaneQueues } from '../../shared/redis/lane-queues.js'
import { countArgument } from '../embedded/flags.js'
import { note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'

interface FailedJobs {
  readonly redis: Redis
  readonly queues: LaneQueues
  readonly keys: Keys
}

const FLAGS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'logLevel', 'commandTimeoutMs']

export function failedCommand(): Command {
  const command = new Command('failed').description('Dead jobs: list, show, try again, remove.')
  const add = (
    name: string,
    description: string,
    run: (jobs: FailedJobs, ids: string[], flags: Command) => Promise<void>,
  ) => {
    const sub = new Command(name).description(description)
    if (name === 'ls')
      sub
        .addOption(new Option('--limit <n>', 'jobs to list').default(100).argParser(countArgument))
        .option('--json', 'JSON lines')
    else sub.argument('<ids...>', 'request ids, or "all"')
    sub.action(async (ids: unknown) =>
      withQueues(sub, (jobs) => run(jobs, Array.isArray(ids) ? (ids as string[]) : [], sub)),
    )
    command.addCommand(addOptions(sub, FLAGS))
  }
  add('ls', 'Newest first: request, part, when, attempts, error.', list)
  add('show', 'Everything that is kept of a request’s failed jobs, as JSON.', show)
  add('retry', 'Put the failed jobs of requests back into the queue.', retry)
  add('rm', 'Forget the failed jobs of requests; their errors stay until they expire.', remove)
  return command
}

async function withQueues(command: Command, run: (jobs: FailedJobs) => Promise<void>): Promise<void> {
  const { redis: url, prefix, queue, commandTimeoutMs } = optionsOf(command)
  const redis = await connectProducer(url, commandTimeoutMs)
  const queues = new LaneQueues(redis, { prefix, queue })
  try {
    await run({ redis, queues, keys: keysOf(prefix, queue) })
  } finally {
    await queues.close()
    redis.disconnect()
  }
}

async function list(failed: FailedJobs, _ids: string[], command: Command): Promise<void> {
  const { limit, json } = command.opts<{ limit: number; json?: true }>()
  const jobs = (await newestFirst(failed, limit)).slice(0, limit)
  if (json || !process.stdout.isTTY) {
    for (const job of jobs) process.stdout.write(`${JSON.stringify(summaryOf(job))}\n`)
    return
  }
  const table = new Table({ head: ['request', 'part', 'failed at', 'attempts', 'documents', 'error'], wordWrap: true })
  for (const job of jobs) {
    const { id, part, failed_at, attempts, documents, error } = summaryOf(job)
    table.push([id, part, failed_at, attempts, documents, error.slice(0, 80)])
  }
  process.stdout.write(jobs.length > 0 ? `${table.toString()}\n` : '')
  if (jobs.length === 0) note('rankmill: no failed jobs')
}

function summaryOf(job: Job<RerankJob>) {
  return {
    id: job.data.requestId,
    part: `${job.data.part + 1}/${job.data.parts}`,
    failed_at: new Date(job.finishedOn ?? 0).toISOString(),
    attempts: job.attemptsMade,
    documents: candidateCount(job.data.documents),
    error: job.failedReason ?? '',
  }
}

async function show(jobs: FailedJobs, ids: string[]): Promise<void> {
  for (const job of await failedOf(jobs, ids)) {
    process.stdout.write(`${JSON.stringify({ ...summaryOf(job), stack: job.stacktrace, data: job.data }, null, 2)}\n`)
  }
}

async function retry(jobs: FailedJobs, ids: string[]): Promise<void> {
  const failed = await failedOf(jobs, ids)
  // The stored error goes first: a job that finds its request answered does nothing.
  for (const id of new Set(failed.map((job) => job.data.requestId))) await jobs.redis.del(jobs.keys.result(id))
  await Promise.all(failed.map((job) => job.retry('failed')))
  note(`rankmill: ${failed.length} job(s) back in the queue`)
}

async function remove(jobs: FailedJobs, ids: string[]): Promise<void> {
  const failed = await failedOf(jobs, ids)
  await Promise.all(failed.map((job) => job.remove()))
  note(`rankmill: ${failed.length} job(s) removed`)
}

/** Failed jobs of both lanes; up to `limit` of each, or all. */
async function newestFirst({ queues }: FailedJobs, limit = 0): Promise<Job<RerankJob>[]> {
  const jobs = await Promise.all(queues.all.map((queue) => queue.getFailed(0, limit - 1)))
  return jobs.flat().sort((a, b) => (b.finishedOn ?? 0) - (a.finishedOn ?? 0))
}

async function failedOf(jobs: FailedJobs, ids: string[]): Promise<Job<RerankJob>[]> {
  const all = await newestFirst(jobs)
  if (ids.length === 1 && ids[0] === 'all') return all
  for (const id of ids) {
    if (!all.some((job) => job.data.requestId === id)) {
      throw new RankmillError('not_found', `no failed job of request "${id}"`, { param: 'ids' })
    }
  }
  return all.filter((job) => ids.includes(job.data.requestId))
}
