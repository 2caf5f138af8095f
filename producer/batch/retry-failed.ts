/** Runs again what failed in a finished run, and puts the new answers in the old ones' places. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { resolveOptions } from '../../shared/options.js'
import { type Compression, compressedFrame, compressionOf, decompressed } from '../lines/compression.js'
import { readLines } from '../lines/line-reader.js'
import { type BatchFileOptions, checkBatch, openSource, runOptions } from './batch-file.js'
import { resolvedInput } from './batch-inputs.js'
import { type OutputLine, readOutputLine } from './batch-line.js'
import type { BatchReport } from './batch-report.js'
import { BatchRun, settingsOf } from './batch-run.js'
import type { BatchItem, BatchSource } from './batch-source.js'
import { type Checkpoint, readCheckpoint, writeCheckpoint } from './checkpoint.js'
import { answersFileOf } from './delivery.js'
import { anotherInput } from './input-record.js'
import { checkedOutput, recordOf } from './output-check.js'
import { outputPlace } from './output-place.js'
import type { BatchClient } from './persistent-request.js'
import { RunFolder } from './run-folder.js'
import { completeMerge, mergedFile } from './run-opening.js'
import { checkSameSettings } from './run-settings.js'
import { unwritable } from './unwritable.js'

const FRAME_BYTES = 1 << 20
/** The same lines would fail again, and only because of lines that are not run again. */
const NEVER_HELPED = 'duplicate_custom_id'

/**
 * Resumable like the run itself: until all new answers are there, the output stays as it is.
 *
 * @param onRun is given the run over the failed lines, to watch it and to stop it
 * @returns undefined where nothing had failed
 * @throws RankmillError like `BatchRun.run`; `output_exists` where the run before is not finished, or of another input or
 *   other options
 */
export async function retryFailed(
  client: BatchClient,
  options: BatchFileOptions & { readonly output: string },
  onRun: (run: BatchRun) => void,
): Promise<BatchReport | undefined> {
  const limits = resolveOptions({ ...options.options })
  const { allowModelChange = false, allowCorpusChange = false } = options
  const input = await resolvedInput(options.input, options.output)
  const answersFile = answersFileOf(options.output)
  const output = await outputPlace(answersFile)
  await checkBatch({ ...options, input }, limits.maxLineBytes)
  const whole = await openSource({ ...options, input }, limits.maxLineBytes)
  const folder = await RunFolder.claim(output, limits.leaseMs)
  try {
    const found = await readCheckpoint(folder)
    if (!found?.finished) {
      throw new RankmillError('output_exists', `${output}: is not the output of a finished run`, { param: 'output' })
    }
    const run = runOptions(whole, { ...options, input }, limits)
    const changed = checkSameSettings(output, found.settings, settingsOf(run), allowModelChange)
    const fingerprint = await whole.fingerprint()
    if (fingerprint !== found.input.fingerprint) {
      throw anotherInput(output, `holds the results of another input (${found.input.name}) than ${whole.name}`)
    }
    const compression = compressionOf(answersFile)
    const before = await completeMerge(output, folder, found)
    await checkedOutput(output, before.output)
    const failed = await failedLines(output, compression)
    if (failed.size === 0) return undefined
    const source = only(failed, whole, (item) => {
      if (item.line !== found.mark.line || item.digest === found.mark.digest) return
      throw anotherInput(output, `holds the results of another input than ${whole.name} is up to line ${item.line}`)
    })
    // Named by what is run again: what a killed merge left of other lines is no hindrance.
    const retried = join(folder.path, `retried-${await source.fingerprint()}.jsonl`)
    const again = await BatchRun.open({
      ...run,
      source,
      output: retried,
      delivery: undefined,
      overwrite: false,
      // Of one model and one version of each corpus, like what is there.
      pins: { models: before.modelPins, corpora: allowCorpusChange ? {} : before.corpora },
    })
    onRun(again)
    const report = await again.run(client)
    if (report.status !== 'finished') return report
    const merged = { output, compression, retried, folder, lines: before.output.lines }
    const { errors, record } = await mergeAnswers(merged)
    const totals = { ...before.totals, failed: [...errors.values()].reduce((sum, count) => sum + count, 0) }
    const movedCorpora = Object.entries(report.corpora).flatMap(([corpus, to]) => {
      const from = before.corpora[corpus]
      return from === undefined || from === to ? [] : [{ what: `corpus ${corpus}`, from, to, after: totals.requests }]
    })
    const movedOptions = changed.map(({ name, from, to }) => ({ what: name, from, to, after: totals.requests }))
    const changes = [...before.changes, ...movedOptions, ...report.changes, ...movedCorpora]
    const after: Checkpoint = {
      ...before,
      output: record,
      merging: folder.number,
      totals,
      errors: Object.fromEntries(errors),
      corpora: { ...before.corpora, ...report.corpora },
      modelPins: { ...again.modelPins, ...before.modelPins },
      changes: changes.map(({ what, from, to, after }) => ({ what, from, to, after })),
      endedAt: report.ended_at,
    }
    await folder.check()
    await writeCheckpoint(folder, after)
    await completeMerge(output, folder, after)
    for (const name of await readdir(folder.path)) {
      if (name.startsWith('retried-')) await rm(join(folder.path, name), { recursive: true, force: true })
    }
    await folder.forgetEarlier()
    await run.delivery?.make(folder)
    const { requests: answers } = totals
    const checked = { items: before.items, answers, bytes: record.bytes }
    return { ...report, input: before.input, settings: before.settings, totals, errors: after.errors, changes, checked }
  } finally {
    await folder.release()
  }
}

async function failedLines(output: string, compression: Compression): Promise<Set<number>> {
  const failed = new Set<number>()
  for await (const { line, code } of outputLines(output, compression)) {
    if (code !== undefined && code !== NEVER_HELPED) failed.add(line)
  }
  return failed
}

/** The part of a source that is run again; all of it is read, and shown to `look`. */
function only(lines: ReadonlySet<number>, source: BatchSource, look: (item: BatchItem) => void): BatchSource {
  return {
    name: source.name,
    shareBefore: (offset) => source.shareBefore(offset),
    fingerprint: async () => {
      const which = [...lines].sort((a, b) => a - b).join()
      return createHash('sha256')
        .update(`${await source.fingerprint()} ${which}`)
        .digest('hex')
        .slice(0, 32)
    },
    digestAt: (mark) => source.digestAt(mark),
    async *read(from) {
      for await (const item of source.read(from)) {
        look(item)
        if (lines.has(item.line)) yield item
      }
    },
  }
}

interface Merge {
  readonly output: string
  readonly compression: Compression
  readonly retried: string
  readonly folder: RunFolder
  /** That the output has. */
  readonly lines: number
}

/** Writes the output anew beside the old one, with the new answers in place. */
async function mergeAnswers({ output, compression, retried, folder, lines }: Merge) {
  const places = new Map<number, { start: number; length: number; code: string | undefined }>()
  let start = 0
  for await (const { text, line, code } of outputLines(retried, 'none')) {
    const length = Buffer.byteLength(text)
    places.set(line, { start, length, code })
    start += length + 1
  }
  const errors = new Map<string, number>()
  const merged = mergedFile(folder, folder.number)
  const answers = await open(retried, 'r')
  try {
    const file = await open(merged, 'w')
    try {
      let frame: string[] = []
      let frameLength = 0
      const flush = async () => {
        await file.writeFile(await compressedFrame(Buffer.from(frame.join('')), compression))
        frame = []
        frameLength = 0
      }
      for await (const { text, line, code: before } of outputLines(output, compression)) {
        const place = places.get(line)
        const lasting = place
          ? (await answers.read(Buffer.alloc(place.length), 0, place.length, place.start)).buffer.toString()
          : text
        const code = place ? place.code : before
        if (code !== undefined) errors.set(code, (errors.get(code) ?? 0) + 1)
        frame.push(`${lasting}\n`)
        frameLength += lasting.length
        if (frameLength >= FRAME_BYTES) await flush()
      }
      if (frame.length > 0) await flush()
      await file.sync()
    } finally {
      await file.close()
    }
    return { errors, record: await recordOf(merged, lines) }
  } catch (error) {
    throw unwritable(output, error)
  } finally {
    await answers.close()
  }
}

async function* outputLines(path: string, compression: Compression): AsyncGenerator<OutputLine & { text: string }> {
  const content = decompressed(createReadStream(path), compression)
  for await (const { bytes, number } of readLines(content, Number.MAX_SAFE_INTEGER)) {
    const text = bytes?.toString() ?? ''
    const line = readOutputLine(text)
    if (!line) {
      throw new RankmillError('output_exists', `${path}: line ${number} is not a line that a run wrote`, {
        param: 'output',
      })
    }
    yield { ...line, text }
  }
}
