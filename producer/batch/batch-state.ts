/** What a run has done, on disk: the output, and beside it the folder that says how much of the input it answers. */
import { randomBytes } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { RankmillError } from '../../shared/errors.js'
import type { LoadedModel } from '../../shared/protocol/worker-info.js'
import type { OutputLine } from './batch-line.js'
import { type BatchSource, INPUT_START } from './batch-source.js'
import { type Checkpoint, checkSameRun, readCheckpoint, writeCheckpoint } from './checkpoint.js'
import { CorpusPins } from './corpus-pins.js'
import { CustomIdFile, CustomIds } from './custom-ids.js'
import { DoneLines } from './done-lines.js'
import { LatencyCounts } from './latency-counts.js'
import { type OutputFile, OutputOnDisk, OutputStream } from './output-file.js'
import type { Answered } from './ready-items.js'
import { RunFolder } from './run-folder.js'

/** How answers look in an output. */
export interface BatchFormat {
  /** Whole lines. */
  encode(answered: Answered): string
  /** What a line of the output answers; without it, what was written after the last checkpoint is written again. */
  recover?(line: string): OutputLine | undefined
}

export interface StateOptions {
  readonly overwrite: boolean
  readonly leaseMs: number
  readonly corpusPinMs: number
  /** Everything that the output depends on beyond the input. */
  readonly settings: Record<string, unknown>
}

/** Plain text in one compressed frame. */
const FRAME_BYTES = 1 << 20

/** Named in the checkpoint and the report; the output has them all. */
const FAILURES_LISTED = 100

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
export type Totals = Mutable<Checkpoint['totals']>

export class BatchState {
  readonly runId: string
  readonly totals: Totals
  readonly errors: Map<string, number>
  readonly failures: Checkpoint['failures']
  readonly latency: LatencyCounts
  readonly startedAt: string
  readonly done: DoneLines
  readonly customIds: CustomIds
  readonly pins: CorpusPins
  /** It was complete before it was opened. */
  readonly wasFinished: boolean
  readonly #folder: RunFolder | undefined
  readonly #output: OutputFile
  readonly #idFile: CustomIdFile | undefined
  readonly #format: BatchFormat
  readonly input: Checkpoint['input']
  readonly settings: Record<string, unknown>
  #secondsAt = performance.now()
  #passedIds: string[] = []
  readonly #pending: Answered[] = []
  readonly #answering = new Set<string>()
  readonly #served = new Map<string, LoadedModel>()
  #pendingText = ''

  /**
   * Opens an output to begin a run or to go on with one.
   *
   * @param output a path, or a stream, which cannot be gone on with
   * @throws RankmillError `output_exists`, `output_in_use`, `output_unwritable`, `input_unreadable`
   */
  static async open(
    source: BatchSource,
    output: string | NodeJS.WritableStream,
    format: BatchFormat,
    options: StateOptions,
  ): Promise<BatchState> {
    const input = { name: source.name, fingerprint: await source.fingerprint() }
    if (typeof output !== 'string') {
      const parts = {
        before: undefined,
        recovered: [],
        folder: undefined,
        idFile: undefined,
        customIds: new CustomIds(),
      }
      return new BatchState({ ...parts, output: new OutputStream(output) }, format, input, options)
    }
    const folder = await RunFolder.claim(output, options.leaseMs)
    try {
      const before = options.overwrite ? undefined : await readCheckpoint(folder)
      if (before) checkSameRun(output, before, input, options.settings)
      else if (!options.overwrite) await refuseForeign(output)
      const recovered: OutputLine[] = []
      const recover = before && format.recover?.bind(format)
      const isWhole = (line: string) => {
        const found = recover?.(line)
        if (found) recovered.push(found)
        return found !== undefined
      }
      const length = before?.outputBytes ?? 0
      const file = before?.finished
        ? await OutputOnDisk.openComplete(output, length)
        : await OutputOnDisk.open(output, length, recover ? isWhole : undefined)
      const customIds = new CustomIds()
      const idsBefore = before && (await folder.newest('custom-ids'))
      const idFile = await CustomIdFile.open(folder.own('custom-ids'), idsBefore, before?.customIds ?? 0, customIds)
      const state = new BatchState(
        { before, recovered, folder, output: file, idFile, customIds },
        format,
        input,
        options,
      )
      await state.checkpoint(state.wasFinished)
      await folder.forgetEarlier()
      return state
    } catch (error) {
      await folder.release()
      throw error
    }
  }

  private constructor(
    parts: {
      before: Checkpoint | undefined
      recovered: readonly OutputLine[]
      folder: RunFolder | undefined
      output: OutputFile
      idFile: CustomIdFile | undefined
      customIds: CustomIds
    },
    format: BatchFormat,
    input: Checkpoint['input'],
    { settings, corpusPinMs }: StateOptions,
  ) {
    const { before, recovered } = parts
    this.#folder = parts.folder
    this.#output = parts.output
    this.#idFile = parts.idFile
    this.customIds = parts.customIds
    this.#format = format
    this.input = input
    this.settings = settings
    this.runId = before?.runId ?? randomBytes(8).toString('hex')
    this.wasFinished = before?.finished ?? false
    this.startedAt = before?.startedAt ?? new Date().toISOString()
    this.pins = new CorpusPins(this.runId, corpusPinMs, before?.corpora ?? {})
    this.errors = new Map(Object.entries(before?.errors ?? {}))
    this.failures = [...(before?.failures ?? [])]
    this.latency = new LatencyCounts(before?.latency)
    for (const model of before?.models ?? []) {
      this.#served.set(model.fingerprint, model)
      this.#answering.add(model.name)
    }
    this.totals = { ...(before?.totals ?? NOTHING) }
    if (!this.wasFinished) this.totals.starts++
    for (const line of recovered) this.#countRecovered(line)
    this.done = new DoneLines(before?.mark ?? INPUT_START, [
      ...(before?.beyond ?? []),
      ...recovered.map(({ line }) => line),
    ])
  }

  /** Models that answered: more than one of a name and dtype means that the workers' files were changed meanwhile. */
  get models(): LoadedModel[] {
    return [...this.#served.values()].filter(({ name }) => this.#answering.has(name))
  }

  /** Notes what the workers have loaded. */
  sawLoaded(models: Iterable<LoadedModel>): void {
    for (const model of models) this.#served.set(model.fingerprint, model)
  }

  /** Writes answers at the end of the output and counts them. @throws RankmillError `output_unwritable`, `output_in_use` */
  async append(answers: readonly Answered[]): Promise<void> {
    for (const answered of answers) {
      this.#pending.push(answered)
      this.#pendingText += this.#format.encode(answered)
      this.#count(answered)
    }
    // A frame of its own for every line would compress nothing.
    if (!this.#output.isCompressed || this.#pendingText.length >= FRAME_BYTES) await this.#flush()
  }

  /** Makes what was appended last, and says so in the folder. */
  async checkpoint(finished: boolean): Promise<void> {
    await this.#flush()
    // A compressed file of nothing is not an empty file.
    if (finished && this.#output.isCompressed && this.#output.length === 0) await this.#output.append(Buffer.alloc(0))
    this.#passedIds.push(...this.done.takePassedIds())
    const now = performance.now()
    this.totals.seconds += (now - this.#secondsAt) / 1000
    this.#secondsAt = now
    if (!this.#folder || !this.#idFile) return
    await this.#output.sync()
    await this.#idFile.append(this.#passedIds.splice(0))
    await this.#idFile.sync()
    await this.#folder.check()
    await writeCheckpoint(this.#folder, {
      version: 1,
      runId: this.runId,
      input: this.input,
      settings: this.settings,
      mark: this.done.mark,
      beyond: this.done.beyond(),
      outputBytes: this.#output.length,
      customIds: this.#idFile.count,
      finished,
      totals: this.totals,
      errors: Object.fromEntries(this.errors),
      failures: this.failures,
      latency: this.latency.toJSON(),
      models: this.models,
      corpora: this.pins.versions,
      startedAt: this.startedAt,
    })
  }

  async close(): Promise<void> {
    await this.#output.close()
    await this.#idFile?.close()
    await this.#folder?.release()
  }

  async #flush(): Promise<void> {
    if (this.#pending.length === 0) return
    await this.#folder?.check()
    await this.#output.append(Buffer.from(this.#pendingText))
    this.#pendingText = ''
    for (const { item } of this.#pending.splice(0)) this.done.finish(item)
  }

  /** What went through the model for it, and in what time, is not in its line. */
  #countRecovered({ code, pairs, truncated }: OutputLine): void {
    this.totals.requests++
    this.totals.pairs += pairs
    this.totals.truncated += truncated
    if (code === undefined) return
    this.totals.failed++
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1)
  }

  #count({ item, outcome: { result, error } }: Answered): void {
    const { totals } = this
    totals.requests++
    if (error) {
      totals.failed++
      const { code, message } = error
      this.errors.set(code, (this.errors.get(code) ?? 0) + 1)
      if (this.failures.length < FAILURES_LISTED) {
        this.failures.push({ line: item.line, custom_id: item.customId, code, message })
      }
      return
    }
    for (const name of ['pairs', 'scored', 'cached', 'tokens', 'truncated'] as const) totals[name] += result.usage[name]
    this.latency.add(result.timings_ms.total)
    this.#answering.add(result.model)
  }
}

const NOTHING: Checkpoint['totals'] = {
  requests: 0,
  failed: 0,
  pairs: 0,
  scored: 0,
  cached: 0,
  tokens: 0,
  truncated: 0,
  seconds: 0,
  starts: 0,
}

/** A file that no run began is somebody's: it is not written over. */
async function refuseForeign(output: string): Promise<void> {
  const size = await stat(output).then(
    (found) => found.size,
    () => 0,
  )
  if (size > 0) {
    const message = `${output}: holds ${size} bytes, and nothing beside it says that a run wrote them`
    throw new RankmillError('output_exists', message, { param: output })
  }
}
