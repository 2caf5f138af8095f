/** `rankmill failed`: jobs that ended as failed, and what to do with them. */
import type { Job } from 'bullmq'
import { Command, Option } from 'commander'
import { RankmillError } from '../../shared/errors.js'
import type { OptionName, Options } from '../../shared/options.js'
import type { RerankJob } from '../../shared/protocol/job.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { FailedJobs, summaryOf } from '../../shared/redis/failed-jobs.js'
import { Shards } from '../../shared/redis/shards.js'
import { countArgument } from '../embedded/flags.js'
import { exitCodeOf, note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'
import { numberArgument } from '../strategy-flags.js'
import { plainTable } from '../table.js'

interface Failed {
  readonly options: Options
  readonly jobs: FailedJobs
}

const FLAGS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'shards', 'logLevel', 'commandTimeoutMs']

export function failedCommand(): Command {
  const command = new Command('failed').description('Dead jobs: list, show, try again, remove.')
  const add = (
    name: string,
    description: string,
    run: (failed: Failed, ids: string[], flags: Command) => Promise<void>,
  ) => {
    const sub = new Command(name).description(description)
    if (name === 'ls')
      sub
        .addOption(new Option('--limit <n>', 'jobs to list').default(100).argParser(countArgument))
        .addOption(new Option('--offset <n>', 'newer ones to pass over').default(0).argParser(numberArgument(0)))
        .option('--json', 'JSON lines')
    else sub.argument('<ids...>', 'request ids, or "all"')
    sub.action(async (ids: unknown) =>
      withQueues(sub, (failed) => run(failed, Array.isArray(ids) ? (ids as string[]) : [], sub)),
    )
    command.addCommand(addOptions(sub, FLAGS))
  }
  add('ls', 'Newest first: request, part, when, attempts, error.', list)
  add('show', 'Everything that is kept of a request’s failed jobs, as JSON.', show)
  add('retry', 'Put the failed jobs of requests back into the queue.', retry)
  add('rm', 'Forget the failed jobs of requests; their errors stay until they expire.', remove)
  return command
}

async function withQueues(command: Command, run: (failed: Failed) => Promise<void>): Promise<void> {
  const options = optionsOf(command)
  const shards = await Shards.open(options, connectProducer, 'observer')
  const jobs = new FailedJobs(shards)
  try {
    await run({ options, jobs })
  } finally {
    await jobs.close()
    shards.close()
  }
}

async function list({ jobs }: Failed, _ids: string[], command: Command): Promise<void> {
  const { limit, offset, json } = command.opts<{ limit: number; offset: number; json?: true }>()
  const table = plainTable(['request', 'part', 'failed at', 'attempts', 'documents', 'error'], { wordWrap: true })
  const asTable = !json && process.stdout.isTTY
  for (const ref of await jobs.refs(offset, limit)) {
    const job = await jobs.load(ref)
    if (!job) continue
    const summary = summaryOf(job)
    const { id, part, failed_at, attempts, documents, error } = summary
    if (asTable) table.push([id, part, failed_at, attempts, documents, error.slice(0, 80)])
    else process.stdout.write(`${JSON.stringify(summary)}\n`)
  }
  if (asTable && table.length > 0) process.stdout.write(`${table.toString()}\n`)
  const count = await jobs.count()
  if (count === 0) note('rankmill: no failed jobs')
  else if (offset >= count) note(`rankmill: there are ${count} failed jobs, none after the first ${offset}`)
  else if (offset + limit < count) {
    const next = `--offset ${offset + limit}`
    note(`rankmill: ${offset + 1} to ${offset + limit} of ${count} failed jobs; the next: ${next}`)
  }
}

async function show({ jobs }: Failed, ids: string[]): Promise<void> {
  await each(jobs, ids, async (job) => {
    process.stdout.write(`${JSON.stringify({ ...summaryOf(job), stack: job.stacktrace, data: job.data }, null, 2)}\n`)
  })
}

async function retry(failed: Failed, ids: string[]): Promise<void> {
  // Which jobs there are is known before the first goes back.
  const parts = new Map<string, number[]>()
  await each(failed.jobs, ids, async ({ data }) => {
    parts.set(data.requestId, [...(parts.get(data.requestId) ?? []), data.part])
  })
  let back = 0
  let gone: unknown
  for (const id of parts.keys()) {
    try {
      const { queued, missing } = await failed.jobs.retry(id, failed.options.requestTtlMs)
      back += queued
      if (missing > 0) note(`rankmill: ${missing} part(s) of request "${id}" are not kept: submit it again`)
    } catch (error) {
      // One that is not kept any more, or that somebody else has tried again just now, keeps no other from being.
      if (!(error instanceof RankmillError) || error.code !== 'not_found') throw error
      if (parts.size > 1) note(`rankmill: ${error.message}`)
      gone ??= error
    }
  }
  if (parts.size === 1 && gone) throw gone
  note(`rankmill: ${back} job(s) back in the queue`)
  if (gone) process.exitCode = exitCodeOf(gone)
}

async function remove({ jobs }: Failed, ids: string[]): Promise<void> {
  let count = 0
  if (isAll(ids)) {
    for (const ref of await jobs.refs()) if (await jobs.remove(ref)) count++
  } else count = await each(jobs, ids, (job) => job.remove())
  note(`rankmill: ${count} job(s) removed`)
}

const isAll = (ids: readonly string[]) => ids.length === 1 && ids[0] === 'all'

/**
 * Does something with each failed job of some requests, or of all: one after another, since a job may hold megabytes.
 *
 * @returns how many there were
 * @throws RankmillError `not_found`, before anything is done, where a request has none
 */
async function each(
  jobs: FailedJobs,
  ids: readonly string[],
  act: (job: Job<RerankJob>) => Promise<void>,
): Promise<number> {
  let count = 0
  if (isAll(ids)) {
    for (const ref of await jobs.refs()) {
      const job = await jobs.load(ref)
      if (!job) continue
      await act(job)
      count++
    }
    return count
  }
  const wanted = [...new Set(ids)]
  for (const id of wanted) {
    const { done } = await jobs.of(id).next()
    if (done) throw new RankmillError('not_found', `no failed job of request "${id}"`, { param: 'ids' })
  }
  for (const id of wanted) {
    for await (const job of jobs.of(id)) {
      await act(job)
      count++
    }
  }
  return count
}
