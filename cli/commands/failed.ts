/** `rankmill failed`: jobs that ended as failed, and what to do with them. */
import type { Job } from 'bullmq'
import Table from 'cli-table3'
import { Command, Option } from 'commander'
import { RankmillError } from '../../shared/errors.js'
import type { OptionName, Options } from '../../shared/options.js'
import { candidateCount } from '../../shared/protocol/documents.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { jobIdOf, keysOf } from '../../shared/protocol/keys.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { PoolQueues } from '../../shared/redis/pool-queues.js'
import { RequestLife } from '../../shared/redis/request-life.js'
import { countArgument } from '../embedded/flags.js'
import { note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'

interface FailedJobs {
  readonly life: RequestLife
  readonly queues: PoolQueues
  readonly options: Options
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
  const options = optionsOf(command)
  const { redis: url, prefix, queue, commandTimeoutMs } = options
  const keys = keysOf(prefix, queue)
  const redis = await connectProducer(url, commandTimeoutMs)
  const queues = new PoolQueues(redis, keys)
  try {
    await run({ life: new RequestLife(redis, keys), queues, options })
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
  let back = 0
  for (const id of new Set(failed.map((job) => job.data.requestId))) {
    const own = failed.filter((job) => job.data.requestId === id)
    back += await retryRequest(jobs, id, own)
  }
  note(`rankmill: ${back} job(s) back in the queue`)
}

/** Opens a request again: its scored parts are kept, those of its jobs that failed are queued as the new generation's. */
async function retryRequest({ life, queues, options }: FailedJobs, id: string, own: Job<RerankJob>[]): Promise<number> {
  const before = await life.read(id)
  const current = own.filter((job) => job.data.generation === before?.generation)
  const reopened = before && (await life.retry(id, before.generation, options.requestTtlMs))
  if (!before || !reopened) {
    throw new RankmillError('not_found', `request "${id}" is not kept any more, or not failed: submit it again`, {
      param: 'ids',
    })
  }
  const { generation, submittedAt, done } = reopened
  const queue = queues.of(before.pool, before.lane)
  for (const job of current) {
    const data: RerankJob = { ...job.data, generation, submittedAt, deadlineAt: null }
    await queue.add('rerank', data, { ...job.opts, jobId: jobIdOf(id, generation, data.part) })
    await job.remove()
  }
  const missing = before.parts - done.length - current.length
  if (missing > 0) note(`rankmill: ${missing} part(s) of request "${id}" are not kept: submit it again`)
  else await life.queued({ id, generation, shared: '' })
  return current.length
}

async function remove(jobs: FailedJobs, ids: string[]): Promise<void> {
  const failed = await failedOf(jobs, ids)
  await Promise.all(failed.map((job) => job.remove()))
  note(`rankmill: ${failed.length} job(s) removed`)
}

/** Failed jobs of all queues; up to `limit` of each, or all. */
async function newestFirst({ queues }: FailedJobs, limit = 0): Promise<Job<RerankJob>[]> {
  const jobs = await Promise.all((await queues.all()).map(({ queue }) => queue.getFailed(0, limit - 1)))
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
