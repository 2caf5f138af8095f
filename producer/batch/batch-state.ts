/** What a run has done, on disk: the output, and beside it the folder that says how much of the input it answers. */
import { randomBytes } from 'node:crypto'
import { RankmillError } from '../../shared/errors.js'
import type { LoadedModel } from '../../shared/protocol/worker-info.js'
import { compressionOf } from '../lines/compression.js'
import type { OutputLine } from './batch-line.js'
import { type BatchSource, INPUT_START } from './batch-source.js'
import { type Checkpoint, newestCheckpoint, writeCheckpoint } from './checkpoint.js'
import { CORPUS, CorpusPins } from './corpus-pins.js'
import { CustomIdFile, CustomIds } from './custom-ids.js'
import type { Delivery } from './delivery.js'
import { DoneLines } from './done-lines.js'
import { inputRecord } from './input-record.js'
import { ModelPins, type PinnedModel, type RunChange } from './model-pins.js'
import { checkedOutput, EMPTY, keepWholeLines } from './output-check.js'
import type { OutputDigest } from './output-digest.js'
import { type OutputFile, OutputOnDisk, OutputStream } from './output-file.js'
import { type InputFile, outputPlace, refuseInputs } from './output-place.js'
import type { Answered } from './ready-items.js'
import { RunCounts } from './run-counts.js'
import { inUse, RunFolder } from './run-folder.js'
import { completeMerge, openingOf, refuseForeign } from './run-opening.js'
import type { RunSettings, SettingChange } from './run-settings.js'
import { unwritable } from './unwritable.js'

/** How answers look in an output. */
export interface BatchFormat {
  /** Whole lines. */
  encode(answered: Answered): string
  /**
   * What a line of the output answers, where each answer is one line; without it, what was written after the last
   * checkpoint is written again.
   */
  recover?(line: string): OutputLine | undefined
}

export interface StateOptions {
  readonly overwrite: boolean
  readonly leaseMs: number
  readonly corpusPinMs: number
  /** What the run reads, and so cannot write. */
  readonly inputs: readonly InputFile[]
  /** Everything that the output depends on beyond the input. */
  readonly settings: RunSettings
  readonly allowModelChange: boolean
  readonly allowCorpusChange: boolean
  /** What a run that begins is kept to. */
  readonly pins: {
    readonly models: Readonly<Record<string, PinnedModel>>
    readonly corpora: Readonly<Record<string, string>>
  }
}

/** Plain text in one compressed frame. */
const FRAME_BYTES = 1 << 20

/** Where an output on disk lies, and what it holds that is known. */
interface Place {
  readonly named: string
  readonly path: string
  readonly folder: RunFolder
  readonly digest: OutputDigest
}

export class BatchState {
  readonly runId: string
  readonly counts: RunCounts
  readonly startedAt: string
  readonly customIds = new CustomIds()
  readonly models: ModelPins
  readonly pins: CorpusPins
  readonly changes: RunChange[]
  /** It was complete before it was opened. */
  readonly wasFinished: boolean
  readonly input: Checkpoint['input']
  readonly settings: RunSettings
  readonly #before: Checkpoint | undefined
  readonly #overwrote: boolean
  readonly #format: BatchFormat
  readonly #path: string | undefined
  readonly #leaseMs: number
  readonly #place: Place | undefined
  #output: OutputFile | undefined
  #idFile: CustomIdFile | undefined
  #done: DoneLines
  #finished: boolean
  #endedAt: string
  #hasNewPins = false
  #secondsAt = performance.now()
  #newIds: string[] = []
  readonly #pending: Answered[] = []
  readonly #answering = new Set<string>()
  readonly #served = new Map<string, LoadedModel>()
  #pendingText = ''

  /**
   * Claims an output to begin a run or to go on with one, and writes nothing into it. Where the run is finished, nothing
   * is claimed.
   *
   * @param output a path, or a stream, which cannot be gone on with
   * @throws RankmillError `output_exists`, `output_in_use`, `output_changed`, `output_unwritable`, `input_unreadable`
   */
  static async open(
    source: BatchSource,
    output: string | NodeJS.WritableStream,
    format: BatchFormat,
    options: StateOptions,
  ): Promise<BatchState> {
    if (typeof output !== 'string') {
      const written = (output as { fd?: unknown }).fd
      if (typeof written === 'number') await refuseInputs(written, options.inputs)
      const input = await inputRecord(source, [])
      const state = new BatchState(undefined, [], undefined, undefined, format, input, options)
      state.#output = new OutputStream(output)
      return state
    }
    const path = await outputPlace(output)
    await refuseInputs(output, options.inputs)
    const input = await inputRecord(source, options.inputs)
    const files = RunFolder.peek(path)
    const newest = await newestCheckpoint(files)
    const { before, changed } = await openingOf(path, files, { ...options, source, input })
    const opened = (known: Checkpoint | undefined, place: Place | undefined) =>
      new BatchState(known, changed, path, place, format, input, options)

    // Looked at before the claim, so that a refusal leaves no trace; a merge can only be completed by the holder.
    const digest = await checkedOutput(path, before?.merging === undefined ? (before?.output ?? EMPTY) : EMPTY)
    if (before?.finished && before.merging === undefined) return opened(before, undefined)
    const folder = await RunFolder.claim(path, options.leaseMs)
    try {
      if ((await newestCheckpoint(folder)) !== newest) throw inUse(output)
      if (!before?.finished) return opened(before, { named: output, path, folder, digest })
      const merged = await completeMerge(path, folder, before)
      await checkedOutput(path, merged.output)
      await folder.release()
      return opened(merged, undefined)
    } catch (error) {
      await folder.release()
      throw error
    }
  }

  private constructor(
    before: Checkpoint | undefined,
    changed: readonly SettingChange[],
    path: string | undefined,
    place: Place | undefined,
    format: BatchFormat,
    input: Checkpoint['input'],
    { settings, leaseMs, corpusPinMs, overwrite, allowModelChange, allowCorpusChange, pins }: StateOptions,
  ) {
    this.#before = before
    this.#path = path
    this.#leaseMs = leaseMs
    this.#place = place
    this.#format = format
    this.#overwrote = before?.overwrote ?? overwrite
    this.input = input
    this.settings = settings
    this.runId = before?.runId ?? randomBytes(8).toString('hex')
    this.wasFinished = before?.finished ?? false
    this.#finished = this.wasFinished
    this.startedAt = before?.startedAt ?? new Date().toISOString()
    this.#endedAt = before?.endedAt ?? this.startedAt
    this.counts = new RunCounts(before)
    this.changes = (before?.changes ?? []).map(({ what, from, to, after }) => ({ what, from, to, after }))
    for (const { name, from, to } of changed) this.#note({ what: name, from, to })
    this.models = new ModelPins(before?.modelPins ?? pins.models, allowModelChange, (change) => {
      if (change) this.#note(change)
      this.#hasNewPins = true
    })
    this.pins = new CorpusPins(this.runId, corpusPinMs, before?.corpora ?? pins.corpora, allowCorpusChange, (change) =>
      this.#note(change),
    )
    for (const model of before?.models ?? []) {
      this.#served.set(model.fingerprint, model)
      this.#answering.add(model.name)
    }
    this.#done = new DoneLines(before?.mark ?? INPUT_START, before?.items ?? 0, before?.beyond ?? [])
  }

  get done(): DoneLines {
    return this.#done
  }

  /** Every item of the input has its answer in the output, and that was checked. */
  get isFinished(): boolean {
    return this.#finished
  }

  /**
   * A request that reads another version of a corpus than before is another request: it needs another id.
   *
   * @param line of the item
   */
  requestId(line: number): string {
    const versions = this.changes.filter(({ what }) => what.startsWith(CORPUS)).length
    return `${this.runId}-${line}${versions === 0 ? '' : `-v${versions}`}`
  }

  get endedAt(): string {
    return this.#endedAt
  }

  /** The output as the last checkpoint has it. */
  get outputBytes(): number {
    return this.#output?.length ?? this.#before?.output.bytes ?? 0
  }

  /** Models that the workers have loaded, of those that answered. */
  get loaded(): LoadedModel[] {
    return [...this.#served.values()].filter(({ name }) => this.#answering.has(name))
  }

  /**
   * Begins to write, once everything is there that answers need.
   *
   * @throws RankmillError `output_in_use`, `output_changed`, `output_unwritable`
   */
  async begin(): Promise<void> {
    this.counts.totals.starts++
    this.#secondsAt = performance.now()
    if (!this.#place) return
    const { named, path, folder, digest } = this.#place
    await folder.check()
    if (!this.#before && !this.#overwrote) await refuseForeign(path)
    const recovered: OutputLine[] = []
    const compression = compressionOf(named)
    if (this.#before && this.#format.recover && compression === 'none') {
      await keepWholeLines(path, digest, (line) => {
        const found = this.#format.recover?.(line)
        if (found) recovered.push(found)
        return found !== undefined
      })
    }
    for (const line of recovered) this.counts.recover(line)
    const { mark, items, beyond } = this.#before ?? { mark: INPUT_START, items: 0, beyond: [] }
    const further = recovered.map(({ line }): [number, number] => [line, line])
    this.#done = new DoneLines(mark, items, [...beyond, ...further])
    const lines = (this.#before?.output.lines ?? 0) + recovered.length
    // One that only slept keeps the file that it has open; the run goes on in a copy. One that slept while it made such a
    // copy must not put it in this one's place.
    await folder.forgetEarlier('copy')
    const copy = folder.tookOver ? folder.own('copy') : undefined
    const claim = { check: () => folder.check(), copy }
    this.#output = await OutputOnDisk.open(path, compression, { digest, lines }, claim)
    const idsBefore = this.#before && (await folder.newest('custom-ids'))
    const count = this.#before?.customIds ?? 0
    this.#idFile = await CustomIdFile.open(folder.own('custom-ids'), idsBefore, count, this.customIds).catch(
      (error) => {
        throw unwritable(named, error)
      },
    )
    await this.checkpoint(false)
    await folder.forgetEarlier()
  }

  /** Notes the custom id of an item that was read. @returns whether no other item has it */
  meet(customId: string | null): boolean {
    return customId === null || this.customIds.add(customId)
  }

  /** Notes that the id of an item that is done was met first there: a later run has it from the file. */
  keepId(customId: string): void {
    this.#newIds.push(customId)
  }

  /** Notes what the workers have loaded. */
  sawLoaded(models: Iterable<LoadedModel>): void {
    for (const model of models) this.#served.set(model.fingerprint, model)
  }

  /**
   * At any time, while answers are written too.
   *
   * @throws RankmillError `output_in_use`, `output_changed`: nothing that this run writes would be found
   */
  async check(): Promise<void> {
    await this.#place?.folder.check()
    if (this.#output instanceof OutputOnDisk) await this.#output.checkPlace()
  }

  /** Writes answers at the end of the output and counts them. @throws RankmillError as `begin` */
  async append(answers: readonly Answered[]): Promise<void> {
    // A run that is killed after its first answer must know what the second has to be from.
    if (this.#hasNewPins) await this.checkpoint(false)
    for (const answered of answers) {
      this.#pending.push(answered)
      this.#pendingText += this.#format.encode(answered)
      this.counts.add(answered)
      if (answered.outcome.result) this.#answering.add(answered.outcome.result.model)
    }
    // A frame of its own for every line would compress nothing.
    if (!this.#output?.isCompressed || this.#pendingText.length >= FRAME_BYTES) await this.#flush()
  }

  /**
   * Makes what was appended last, and says so in the folder.
   *
   * @param readAll every item was read, and is answered: then the run is finished
   * @throws RankmillError as `begin`
   */
  async checkpoint(readAll: boolean): Promise<void> {
    await this.#flush()
    // A compressed file of nothing is not an empty file.
    if (readAll && this.#output?.isCompressed && this.#output.length === 0) await this.#output.append(Buffer.alloc(0))
    const now = performance.now()
    this.counts.totals.seconds += (now - this.#secondsAt) / 1000
    this.#secondsAt = now
    this.#endedAt = new Date().toISOString()
    if (readAll) this.#checkCounts()
    if (this.#place && this.#idFile && this.#output instanceof OutputOnDisk) {
      const { folder, named } = this.#place
      // Together, since reading goes on meanwhile.
      const { mark, items } = this.#done
      const beyond = this.#done.beyond().map(([first, last]): [number, number] => [first, last])
      await this.#output.sync()
      await this.#idFile.append(this.#newIds.splice(0)).catch((error) => {
        throw unwritable(named, error)
      })
      await folder.check()
      await this.#output.check()
      await writeCheckpoint(folder, {
        version: 2,
        runId: this.runId,
        input: this.input,
        settings: this.settings,
        mark,
        items,
        beyond,
        output: await this.#output.record(),
        customIds: this.#idFile.count,
        finished: readAll,
        overwrote: this.#overwrote,
        ...this.counts.toJSON(),
        models: this.loaded,
        modelPins: this.models.toJSON(),
        corpora: this.pins.versions,
        changes: this.changes,
        startedAt: this.startedAt,
        endedAt: this.#endedAt,
      })
      this.#hasNewPins = false
      // One that slept just before it wrote this has written it for nobody.
      await this.check()
    } else this.#newIds = []
    this.#finished = readAll
  }

  /** Makes of the finished run's answers what is not in its place. @throws RankmillError as the delivery, `output_in_use` */
  async deliver(delivery: Delivery): Promise<void> {
    if (this.#place) return delivery.make(this.#place.folder)
    if (this.#path === undefined || (await delivery.isDone(RunFolder.peek(this.#path)))) return
    const folder = await RunFolder.claim(this.#path, this.#leaseMs)
    try {
      await delivery.make(folder)
    } finally {
      await folder.release()
    }
  }

  async close(): Promise<void> {
    try {
      await this.#output?.close()
      await this.#idFile?.close()
    } finally {
      await this.#place?.folder.release()
    }
  }

  async #flush(): Promise<void> {
    if (this.#pending.length === 0) return
    await this.#place?.folder.check()
    await this.#output?.append(Buffer.from(this.#pendingText))
    this.#pendingText = ''
    for (const { item, outcome } of this.#pending.splice(0)) {
      this.#done.finish(item)
      const { customId } = item
      if (customId !== null && outcome.error?.code !== 'duplicate_custom_id') this.keepId(customId)
    }
  }

  /** Every item that was read has exactly one answer, and where an answer is a line, as many lines were written. */
  #checkCounts(): void {
    const { items } = this.#done
    const { requests } = this.counts.totals
    const lines = this.#format.recover && this.#output ? this.#output.lines : requests
    if (items === requests && lines === requests && this.#done.beyond().length === 0) return
    const message = `the output has ${requests} answers in ${lines} lines for ${items} items of the input`
    throw new RankmillError('output_changed', message, { param: 'output' })
  }

  #note(change: Omit<RunChange, 'after'>): void {
    this.changes.push({ ...change, after: this.counts.totals.requests })
  }
}
