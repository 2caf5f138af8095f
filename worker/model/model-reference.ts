/** From what users call a model to the folder that holds it. */
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { RankmillError } from '../../shared/errors.js'
import { downloadModel } from './hub.js'
import type { Dtype } from './model-folder.js'

interface LocatedModel {
  readonly name: string
  readonly folder: string
}

interface LocateOptions {
  readonly dtype: Dtype | 'auto'
  readonly cacheDir: string
  readonly revision?: string
  readonly allowHub: boolean
}

/** `org/name`, with an optional `@revision`, as in Python's huggingface_hub (validate_repo_id). */
const HUB_ID = /^(?<id>[\w-][\w.-]{0,95}\/[\w-][\w.-]{0,95})(?:@(?<revision>[\w./-]+))?$/

/** The folder of the models that ship, beside package.json. */
export function shippedFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder)
  return join(folder, 'models')
}

/** Names of the models that ship. */
export async function shippedModels(): Promise<string[]> {
  const entries = await readdir(shippedFolder(), { withFileTypes: true }).catch(() => [])
  const names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  return names.filter((name) => existsSync(join(shippedFolder(), name, 'config.json'))).sort()
}

/**
 * Finds a model's folder: a shipped one by name, then a folder, then a hub id. A hub is asked only for what can be
 * nothing else than a hub id, and only if that is allowed.
 *
 * @throws RankmillError `unknown_model`
 */
export async function locateModel(reference: string, options: LocateOptions): Promise<LocatedModel> {
  const shipped = await shippedModels()
  const name = shipped.find((known) => known === reference || known === `rankmill-${reference}`)
  if (name !== undefined) return { name, folder: join(shippedFolder(), name) }
  const folder = resolve(reference)
  if (reference !== '' && (await stat(folder).catch(() => undefined))?.isDirectory()) return { name: reference, folder }
  const { id, revision } = HUB_ID.exec(reference)?.groups ?? {}
  if (id === undefined) {
    const known =
      shipped.length > 0 ? `shipped models are ${shipped.join(', ')}` : 'no model ships with this installation'
    throw unknown(reference, `there is no such folder, and ${known}`)
  }
  if (!options.allowHub) throw unknown(reference, 'there is no such folder, and asking a hub is not allowed here')
  return { name: reference, folder: await downloadModel(id, revision ?? options.revision ?? 'main', options) }
}

function unknown(reference: string, why: string): RankmillError {
  return new RankmillError('unknown_model', `model "${reference}": ${why}`, { param: 'model' })
}
