/** Runs again what failed in a finished run, and puts the new answers in the old ones' places. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { resolveOptions } from '../../shared/options.js'
import { compressedFrame, compressionOf, decompressed } from '../lines/compression.js'
import { readLines } from '../lines/line-reader.js'
import { type BatchFileOptions, openSource, runOptions } from './batch-file.js'
import { type OutputLine, readOutputLine } from './batch-line.js'
import type { BatchReport } from './batch-report.js'
import { BatchRun } from './batch-run.js'
import type { BatchSource } from './batch-source.js'
import { readCheckpoint, writeCheckpoint } from './checkpoint.js'
import type { BatchClient } from './persistent-request.js'
import { RunFolder, syncFolder, unwritable } from './run-folder.js'

const FRAME_BYTES = 1 << 20
/** The same lines would fail again, and only because of lines that are not run again. */
const NEVER_HELPED = 'duplicate_custom_id'

/**
 * Resumable like the run itself: until all new answers are there, the output stays as it is.
 *
 * @param onRun is given the run over the failed lines, to watch it and to stop it
 * @returns undefined where nothing had failed
 * @throws RankmillError like `BatchRun.run`; `output_exists` where the run before is not finished
 */
export async function retryFailed(
  client: BatchClient,
  options: BatchFileOptions & { readonly output: string },
  onRun: (run: BatchRun) => void,
): Promise<BatchReport | undefined> {
  const limits = resolveOptions({ ...options.options })
  const { output } = options
  const folder = await RunFolder.claim(output, limits.leaseMs)
  try {
    const before = await readCheckpoint(folder)
    if (!before?.finished) {
      throw new RankmillError('output_exists', `${output}: is not the output of a finished run`, { param: 'output' })
    }
    const failed = await failedLines(output)
    if (failed.size === 0) return undefined
    const source = only(failed, await openSource(options, limits.maxLineBytes))
    // Named by what is run again: what a killed merge left of other lines is no hindrance.
    const retried = join(folder.path, `retried-${await source.fingerprint()}.jsonl`)
    const run = await BatchRun.open(runOptions(source, { ...options, output: retried, overwrite: false }, limits))
    onRun(run)
    const report = await run.run(client)
    if (report.status !== 'finished') return report
    const { errors, bytes } = await merge(output, retried, folder)
    const totals = { ...before.totals, failed: [...errors.values()].reduce((sum, count) => sum + count, 0) }
    const after = { ...before, outputBytes: bytes, totals, errors: Object.fromEntries(errors) }
    await writeCheckpoint(folder, after)
    for (const name of await readdir(folder.path)) {
      if (name.startsWith('retried-')) await rm(join(folder.path, name), { recursive: true, force: true })
    }
    await folder.forgetEarlier()
    return { ...report, input: before.input, settings: before.settings, totals, errors: after.errors }
  } finally {
    await folder.release()
  }
}

async function failedLines(output: string): Promise<Set<number>> {
  const failed = new Set<number>()
  for await (const { line, code } of outputLines(output)) {
    if (code !== undefined && code !== NEVER_HELPED) failed.add(line)
  }
  return failed
}

/** The part of a source that is run again. */
function only(lines: ReadonlySet<number>, source: BatchSource): BatchSource {
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
      for await (const item of source.read(from)) if (lines.has(item.line)) yield item
    },
  }
}

/** Writes the output anew, with the new answers in place, and puts it in the old one's place. */
async function merge(
  output: string,
  retried: string,
  folder: RunFolder,
): Promise<{ errors: Map<string, number>; bytes: number }> {
  const places = new Map<number, { start: number; length: number; code: string | undefined }>()
  let start = 0
  for await (const { text, line, code } of outputLines(retried)) {
    const length = Buffer.byteLength(text)
    places.set(line, { start, length, code })
    start += length + 1
  }
  const merged = join(folder.path, 'merged')
  const compression = compressionOf(output)
  const errors = new Map<string, number>()
  const answers = await open(retried, 'r')
  const file = await open(merged, 'w')
  try {
    let frame = ''
    const flush = async () => {
      await file.writeFile(await compressedFrame(Buffer.from(frame), compression))
      frame = ''
    }
    for await (const { text, line, code: before } of outputLines(output)) {
      const place = places.get(line)
      const lasting = place
        ? (await answers.read(Buffer.alloc(place.length), 0, place.length, place.start)).buffer.toString()
        : text
      const code = place ? place.code : before
      if (code !== undefined) errors.set(code, (errors.get(code) ?? 0) + 1)
      frame += `${lasting}\n`
      if (frame.length >= FRAME_BYTES) await flush()
    }
    if (frame !== '') await flush()
    await file.sync()
  } catch (error) {
    throw unwritable(output, error)
  } finally {
    await file.close()
    await answers.close()
  }
  await folder.check()
  const { size } = await stat(merged)
  await rename(merged, output)
  await syncFolder(folder.path)
  return { errors, bytes: size }
}

async function* outputLines(path: string): AsyncGenerator<OutputLine & { text: string }> {
  const content = decompressed(createReadStream(path), compressionOf(path))
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
