/** From what users call a model to the folder that holds it. */
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { closest, distance } from 'fastest-levenshtein'
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

/** Letters that a name may be off by to be taken for a typing error. */
const MAX_TYPOS = 2

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
  const here = await findHere(reference)
  if (here) return here
  const { id, revision } = HUB_ID.exec(reference)?.groups ?? {}
  if (id === undefined) throw await unknown(reference)
  if (!options.allowHub) {
    throw await unknown(reference, 'there is no such folder, and asking a hub is not allowed here')
  }
  return { name: reference, folder: await downloadModel(id, revision ?? options.revision ?? 'main', options) }
}

/**
 * Whether a reference can lead to a model: it is here, or may be on a hub, which is not asked.
 *
 * @throws RankmillError `unknown_model`
 */
export async function checkReference(reference: string): Promise<void> {
  if (!HUB_ID.test(reference) && !(await findHere(reference))) throw await unknown(reference)
}

async function findHere(reference: string): Promise<LocatedModel | undefined> {
  const name = (await shippedModels()).find((known) => known === reference || known === `rankmill-${reference}`)
  if (name !== undefined) return { name, folder: join(shippedFolder(), name) }
  const folder = resolve(reference)
  if (reference !== '' && (await stat(folder).catch(() => undefined))?.isDirectory()) return { name: reference, folder }
  return undefined
}

async function unknown(reference: string, why?: string): Promise<RankmillError> {
  const shipped = await shippedModels()
  const short = shipped.map((name) => name.replace(/^rankmill-/, ''))
  const near = shipped.length > 0 ? closest(reference, [...shipped, ...short]) : ''
  const mean = distance(reference, near) <= MAX_TYPOS ? `; did you mean ${near}?` : ''
  const known =
    shipped.length > 0 ? `shipped models are ${shipped.join(', ')}` : 'no model ships with this installation'
  const message = `model "${reference}": ${why ?? `there is no such folder, and ${known}`}${mean}`
  return new RankmillError('unknown_model', message, { param: 'model' })
}
