/** What a command finds under its output, and whether it begins a run, goes on with one, or has nothing left to do. */
import { rename, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import type { BatchSource } from './batch-source.js'
import { type Checkpoint, readCheckpoint, writeCheckpoint } from './checkpoint.js'
import { anotherInput, type InputRecord, otherInput } from './input-record.js'
import { recordOf } from './output-check.js'
import { type RunFiles, type RunFolder, syncFolder } from './run-folder.js'
import { checkSameSettings, type RunSettings, type SettingChange } from './run-settings.js'
import { codeOf, unwritable } from './unwritable.js'

export interface Wanted {
  readonly source: BatchSource
  readonly input: InputRecord
  readonly settings: RunSettings
  readonly overwrite: boolean
  readonly allowModelChange: boolean
}

export interface Opening {
  /** Where a run is gone on with, or was finished. */
  readonly before: Checkpoint | undefined
  /** Options that it goes on with and did not begin with. */
  readonly changed: readonly SettingChange[]
}

/**
 * Changes nothing. To be called once: an input that is no file can be compared only once.
 *
 * @throws RankmillError `output_exists`, naming what is another, with both values
 */
export async function openingOf(output: string, files: RunFiles, wanted: Wanted): Promise<Opening> {
  if (wanted.overwrite) {
    const before = await readCheckpoint(files).catch(() => undefined)
    // The same command again, after it was killed: what it has done since it began anew stays.
    if (before?.overwrote && !before.finished) {
      try {
        return { before, changed: await checkWanted(output, before, wanted) }
      } catch {
        // Another run: it begins anew as it was told to.
      }
    }
    return { before: undefined, changed: [] }
  }
  const before = await readCheckpoint(files)
  if (before) return { before, changed: await checkWanted(output, before, wanted) }
  await refuseForeign(output)
  return { before, changed: [] }
}

async function checkWanted(output: string, before: Checkpoint, wanted: Wanted): Promise<readonly SettingChange[]> {
  const { settings, allowModelChange, source, input } = wanted
  const changed = checkSameSettings(output, before.settings, settings, allowModelChange)
  const other = await otherInput(before, source, input)
  if (other !== undefined) throw anotherInput(output, other)
  return changed
}

/** A file that no run began is somebody's: it is not written over. */
export async function refuseForeign(output: string): Promise<void> {
  const size = await stat(output).then(
    (found) => found.size,
    () => 0,
  )
  if (size > 0) {
    const message = `${output}: holds ${size} bytes, and nothing beside it says that a run wrote them`
    throw new RankmillError('output_exists', message, { param: 'output' })
  }
}

/**
 * Puts a merged file in the output's place: noted first, so that whoever comes next after a kill completes it.
 *
 * @param after the checkpoint that holds once it is there, with `merging`
 */
export async function completeMerge(output: string, folder: RunFolder, after: Checkpoint): Promise<Checkpoint> {
  const { merging, ...done } = after
  if (merging === undefined) return after
  await folder.check()
  try {
    await rename(mergedFile(folder, merging), output).catch((error) => {
      // It was put in place before.
      if (codeOf(error) !== 'ENOENT') throw error
    })
    await syncFolder(dirname(output))
  } catch (error) {
    throw unwritable(output, error)
  }
  // With the time of its renaming.
  const record = await recordOf(output, done.output.lines)
  const settled = record.digest === done.output.digest ? { ...done, output: record } : done
  await writeCheckpoint(folder, settled)
  return settled
}

export function mergedFile(folder: RunFolder, claim: number): string {
  return join(folder.path, `merged.${claim}`)
}
