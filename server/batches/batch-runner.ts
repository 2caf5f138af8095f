/**
 * Runs batches that nobody runs. A lease in Redis, with a number that only grows, says whose a batch is: whoever holds an
 * older number writes nothing more. What is done lies in the run's folder, so that the next holder goes on from there.
 */
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { openSource, runOptions } from '../../producer/batch/batch-file.js'
import { BatchRun } from '../../producer/batch/batch-run.js'
import { type BatchSource, INPUT_START } from '../../producer/batch/batch-source.js'
import type { RerankClient } from '../../producer/client.js'
import { RankmillError } from '../../shared/errors.js'
import type { Logger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import type { ServerScripts } from '../../shared/redis/server-scripts.js'
import type { Files } from '../files/files.js'
import type { ApiKeys } from '../keys/api-keys.js'
import { Caller } from '../keys/caller.js'
import type { RerankCalls } from '../rerank-calls.js'
import type { Webhooks } from '../webhooks/webhooks.js'
import { batchFormat, TranslatedSource } from './batch-lines.js'
import { linesOf } from './batch-outputs.js'
import { type BatchRecord, type BatchRecords, batchObject, isEnded } from './batch-records.js'

const LOOK_MS = 1000
const BEAT_MS = 500
/** Many: those of one owner are not to hide another's. */
const LOOKED_AT = 20_000
/** Its run failed for a reason that may pass: another try after so long. */
const AGAIN_MS = 5000

export interface RunnerParts {
  readonly client: RerankClient
  readonly calls: RerankCalls
  readonly records: BatchRecords
  readonly files: Files
  readonly scripts: ServerScripts
  readonly apiKeys: ApiKeys
  readonly webhooks: Webhooks
  readonly options: Options
  readonly log: Logger
  readonly now: () => number
}

export class BatchRunner {
  readonly #parts: RunnerParts
  readonly #holder = randomUUID()
  readonly #closing = new AbortController()
  readonly #running = new Map<string, { readonly owner: string; readonly run: Promise<void> }>()
  readonly #looking: Promise<void>
  #wake: () => void = () => undefined

  constructor(parts: RunnerParts) {
    this.#parts = parts
    this.#looking = parts.options.maxRunningBatches === 0 ? Promise.resolve() : this.#look()
  }

  /** Looks at once for batches to run. */
  wake(): void {
    this.#wake()
  }

  /** Stops where it is: other servers, or a later one, go on. */
  async close(): Promise<void> {
    this.#closing.abort()
    this.#wake()
    await this.#looking
    await Promise.all([...this.#running.values()].map(({ run }) => run))
  }

  async #look(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      await this.#claimSome().catch((error) => this.#parts.log.debug({ err: error }, 'cannot look for batches'))
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, LOOK_MS)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  async #claimSome(): Promise<void> {
    const { records, scripts, options } = this.#parts
    const open = (await records.open(LOOKED_AT)).filter(({ id }) => !this.#running.has(id))
    const most = options.maxRunningBatches
    while (open.length > 0 && this.#running.size < most && !this.#closing.signal.aborted) {
      // Of the owner of whom fewest run here: many batches of one do not keep another's waiting.
      const counts = open.map(
        ({ owner }) => [...this.#running.values()].filter((batch) => batch.owner === owner).length,
      )
      const fewest = Math.min(...counts)
      const [next] = open.splice(counts.indexOf(fewest), 1)
      if (!next) return
      // The last place is for a key that has none: batches may take days.
      if (fewest > 0 && next.owner !== 'open' && most > 1 && this.#running.size === most - 1) return
      const number = await scripts.claim(next.id, this.#holder, options.leaseMs)
      if (number === 0) {
        if (await this.#forgetUnknown(next.id)) await records.close(next.owner, next.id)
        continue
      }
      const run = this.#run(next.id, number)
        .catch(async (error) => {
          this.#parts.log.warn({ err: error, batch: next.id }, 'a batch stopped: trying again')
          await delay(AGAIN_MS, undefined, { signal: this.#closing.signal }).catch(() => undefined)
          await scripts.beat(next.id, number, 0).catch(() => undefined)
        })
        .finally(() => this.#running.delete(next.id))
      this.#running.set(next.id, { owner: next.owner, run })
    }
  }

  async #run(id: string, number: number): Promise<void> {
    const { records, scripts } = this.#parts
    const known = await records.read(id)
    if (!known) return
    const held = new HeldBatch(known.record, number, this.#parts)
    const folder = join(this.#parts.options.dataDir, 'batches', id)
    if (isEnded(known.record)) return this.#close(held, folder)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const end = await this.#work(held, folder, known.cancelledAt !== null)
    if (end === 'left') {
      await scripts.beat(id, number, 0)
      return
    }
    if (end === 'lost') return void (await this.#forgetUnknown(id))
    await this.#finish(held, folder, end)
  }

  /** Does what is left of a batch, as far as it may. */
  async #work(held: HeldBatch, folder: string, wasCancelled: boolean): Promise<End> {
    const { files, options, now, calls, client, apiKeys } = this.#parts
    const { record } = held
    let input: string
    try {
      const file = await files.find(record.owner, record.inputFileId, 'input_file_id')
      input = await files.storage.local(file.id, folder)
    } catch (error) {
      if (!(error instanceof RankmillError) || error.code !== 'not_found') throw error
      return held.failed(error.code, error.message)
    }
    let source: BatchSource
    try {
      source = await openSource({ input }, options.maxLineBytes)
    } catch (error) {
      // No file of requests, whoever looks at it again. Where it lies here, and how the command line takes it, is not said.
      const { code, message, cause } = RankmillError.from(error)
      const isOfSystem = cause instanceof Error && 'code' in cause
      if (code !== 'input_unreadable' || isOfSystem) throw error
      const [what] = message.slice(`${input}: `.length).split(': ')
      return held.failed('invalid_file', `the file ${what}`)
    }
    if (record.status === 'validating') {
      let total = 0
      for await (const _ of source.read(INPUT_START)) {
        total++
        if (total > options.maxBatchRequests) {
          return held.failed('too_many_requests', `the file has more than ${options.maxBatchRequests} requests`)
        }
        if (total % 1000 === 0 && (await held.beat(options.leaseMs)) === 'lost') return 'lost'
      }
      if (total === 0) return held.failed('empty_file', 'the file has no requests')
      held.change({ status: 'in_progress', inProgressAt: now(), total })
    }
    if ((await held.save()) === 'lost') return 'lost'
    const caller = await callerOf(record.owner, apiKeys)
    const translated = new TranslatedSource(source, record.defaults, (request) => calls.fill(caller, request))
    const output = join(folder, 'output.jsonl')
    const base = runOptions(translated, { input, output }, options)
    try {
      const run = await BatchRun.open({ ...base, format: batchFormat, settings: { defaults: record.defaults } })
      return await (wasCancelled ? closed(run, 'cancelled') : this.#follow(held, run, client))
    } catch (error) {
      // What another try cannot change ends the batch; the rest is tried until its time is over.
      if (!(error instanceof RankmillError) || error.retryable) throw error
      return held.failed(error.code, error.message)
    }
  }

  /** Keeps the lease and the counts while a run works. */
  async #follow(held: HeldBatch, run: BatchRun, client: RerankClient): Promise<End> {
    const { now } = this.#parts
    const over = new AbortController()
    let end: End = 'completed'
    const beating = (async () => {
      let isStopped = false
      for (;;) {
        const { requests, failed } = run.progress()
        // What a killed runner had counted and not written is done again: nobody sees it go back meanwhile.
        const { completed: before, failed: failedBefore } = held.record
        const isBehind = requests < before + failedBefore && !over.signal.aborted
        if (!isBehind) held.change({ completed: requests - failed, failed })
        const state = await held.save().catch(() => 'held' as const)
        if (state === 'lost' || held.isStale()) {
          end = 'lost'
          run.abort()
        } else if (this.#closing.signal.aborted) {
          end = 'left'
          run.abort()
        } else if (!isStopped && !over.signal.aborted && (state === 'cancelled' || now() >= held.record.expiresAt)) {
          end = state === 'cancelled' ? 'cancelled' : 'expired'
          isStopped = true
          run.stop()
        }
        if (over.signal.aborted) return
        await delay(BEAT_MS, undefined, { signal: over.signal }).catch(() => undefined)
      }
    })()
    try {
      await run.run(client)
    } finally {
      over.abort()
      await beating
    }
    return end
  }

  /** Stores what there is, and ends the batch. */
  async #finish(held: HeldBatch, folder: string, end: Ended): Promise<void> {
    const { files, now } = this.#parts
    const { record } = held
    held.change({ finalizingAt: now(), ...(end === 'failed' ? {} : { status: 'finalizing' }) })
    const state = await held.save()
    if (state === 'lost') return
    const stored: { id: string; owner: string }[] = []
    // A batch that failed on its way keeps what it had done.
    if (record.completed + record.failed > 0) {
      const path = join(folder, 'output.jsonl')
      for (const kind of OUTPUTS) {
        if ((kind === 'answers' ? record.completed : record.failed) === 0) continue
        // The number is in it: what a runner without its lease may still write, nobody ever names.
        const id = outputId(record.id, held.number, kind)
        const bytes = await held.whileHeld(files.storage.put(id, linesOf(path, kind)))
        const filename = `${record.id}_${kind === 'answers' ? 'output' : 'error'}.jsonl`
        const file = { id, owner: record.owner }
        stored.push(file)
        await files.add({ ...file, bytes, filename, purpose: 'batch_output' })
        held.change(kind === 'answers' ? { outputFileId: id } : { errorFileId: id })
      }
    }
    held.change({ status: end, endedAt: now() })
    // Noted before anybody is told: whoever goes on from here tells the same.
    if ((await held.save()) === 'lost') {
      for (const file of stored) await files.remove(file).catch(() => undefined)
      return
    }
    // What runners before this one had stored when they were killed.
    for (let number = held.number - 1; number > 0; number--) {
      for (const kind of OUTPUTS) {
        await files.remove({ id: outputId(record.id, number, kind), owner: record.owner }).catch(() => undefined)
      }
    }
    await this.#close(held, folder)
  }

  /** What was done of a batch that Redis knows no more is of no use to anybody. @returns whether it is unknown */
  async #forgetUnknown(id: string): Promise<boolean> {
    const { records, options } = this.#parts
    if (await records.read(id)) return false
    await rm(join(options.dataDir, 'batches', id), { recursive: true, force: true })
    return true
  }

  /** Tells whom it concerns that a batch has ended, and takes it off the list: done twice, it tells once. */
  async #close(held: HeldBatch, folder: string): Promise<void> {
    const { records, webhooks } = this.#parts
    const { record } = held
    const { id, owner, webhook: url, status } = record
    if (url !== null) {
      const known = await records.read(id)
      const data = batchObject({ record, cancelledAt: known?.cancelledAt ?? null })
      await webhooks.send({ owner, url, type: `batch.${status}`, subject: id, data })
    }
    await records.close(owner, id)
    await held.beat(0)
    await rm(folder, { recursive: true, force: true })
  }
}

const OUTPUTS = ['answers', 'errors'] as const

function outputId(batch: string, number: number, kind: (typeof OUTPUTS)[number]): string {
  return `file-${createHash('sha256').update(`${batch} ${number} ${kind}`).digest('hex').slice(0, 32)}`
}

/** How a batch ends; `left`: to whoever comes next; `lost`: to whoever has it already. */
type Ended = 'completed' | 'failed' | 'expired' | 'cancelled'
type End = Ended | 'left' | 'lost'

/** A batch under a lease: its record as this holder knows it. */
class HeldBatch {
  readonly number: number
  readonly #parts: RunnerParts
  #record: BatchRecord
  #beatAt: number

  constructor(record: BatchRecord, number: number, parts: RunnerParts) {
    this.#record = record
    this.number = number
    this.#parts = parts
    this.#beatAt = performance.now()
  }

  get record(): BatchRecord {
    return this.#record
  }

  change(change: Partial<BatchRecord>): void {
    this.#record = { ...this.#record, ...change }
  }

  failed(code: string, message: string): 'failed' {
    this.change({ errors: [{ code, message, param: null, line: null }] })
    return 'failed'
  }

  /** Writes the record and renews the lease. */
  save(leaseMs = this.#parts.options.leaseMs): Promise<'lost' | 'held' | 'cancelled'> {
    return this.beat(leaseMs, JSON.stringify(this.#record))
  }

  async beat(leaseMs: number, record = ''): Promise<'lost' | 'held' | 'cancelled'> {
    const startedAt = performance.now()
    const state = await this.#parts.scripts.beat(this.#record.id, this.number, leaseMs, record)
    if (state !== 'lost') this.#beatAt = startedAt
    return state
  }

  /** The lease may have run out without this holder hearing of it. */
  isStale(): boolean {
    return performance.now() - this.#beatAt > this.#parts.options.leaseMs
  }

  /** Keeps the lease while something takes its time. */
  async whileHeld<T>(work: Promise<T>): Promise<T> {
    const timer = setInterval(() => void this.save().catch(() => undefined), this.#parts.options.leaseMs / 4)
    try {
      return await work
    } finally {
      clearInterval(timer)
    }
  }
}

async function closed<T>(run: BatchRun, end: T): Promise<T> {
  await run.close()
  return end
}

/** Whoever submitted it; a key that was revoked since still has its names. */
async function callerOf(owner: string, apiKeys: ApiKeys): Promise<Caller> {
  if (owner === 'open') return new Caller()
  const none = { name: '', hash: '', scopes: [], createdAt: 0, expiresAt: null, webhookSecret: '' }
  const noLimits = { requestsPerMinute: 0, pairsPerMinute: 0, queuedPairs: 0, priority: 0 }
  return new Caller((await apiKeys.byId(owner)) ?? { id: owner, ...none, ...noLimits })
}
