/** Files that a run leaves, so that a pattern that they match does not make them its input. */
import { existsSync } from 'node:fs'
import { realpath } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { isS3 } from '../lines/s3-object.js'
import { answersFileOf } from './delivery.js'
import { runFolderOf } from './run-folder.js'

/** What a run calls files beside an output, after its name. */
const BESIDE = /(\.answers\.jsonl)?(\.report\.json|\.uploaded\.json|\.partial\.\d+)?$/
const IN_RUN_FOLDER = /(\.answers\.jsonl)?\.rankmill\/.*$/

/**
 * Whether a file is what a run to this output left: the output itself, or what lies beside it. Only where there was such a
 * run: a file of somebody's that the output would replace is none.
 *
 * @param output a file, or a folder that takes a file for each input; or a URL under `s3://`
 */
export async function isOwnFile(file: string, output: string, isFolder: boolean): Promise<boolean> {
  const base = file.replace(IN_RUN_FOLDER, '').replace(BESIDE, '')
  const place = await placeOf(base)
  const isOutput = isFolder
    ? dirname(place) === (await placeOf(join(output, 'x'))).replace(/\/x$/, '')
    : place === (await placeOf(output))
  return isOutput && existsSync(runFolderOf(answersFileOf(base)))
}

/** The same for every name of a file, be it there or not. */
async function placeOf(file: string): Promise<string> {
  if (isS3(file)) return file
  const folder = dirname(file)
  return join(await realpath(folder).catch(() => folder), basename(file))
}
