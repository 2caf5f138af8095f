/** The models at hand: those that ship and those in the cache. */
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { exitsInWords } from './model-exits.js'
import * as files from './model-folder.js'
import { shippedFolder, shippedModels } from './model-reference.js'

export interface ListedModel {
  readonly name: string
  readonly source: 'shipped' | 'cache' | 'folder'
  readonly folder: string
  readonly kind: string
  /** What each number format loads, in bytes of weights; of a file that cannot be read its size. */
  readonly dtypes: Readonly<Partial<Record<files.Dtype, number>>>
  /** Places inside the model where scoring may stop, the whole model not counted where it is not listed. */
  readonly exits: number
  /** Layers after which scoring may stop, the last being the whole model. */
  readonly exitLayers: readonly number[]
  /** Confidences that its margins were learned for: what `strategy.exit` may ask for at most is the last. */
  readonly exitConfidences: readonly number[]
  /** Bytes of all files in the folder, which formats may share. */
  readonly bytes: number
  readonly maxTokens: number | null
  readonly licence: string | null
}

/** Lists the shipped models and those that were downloaded into the cache folder; damaged ones are listed with what is readable. */
export async function listModels({ cacheDir }: { cacheDir: string }): Promise<ListedModel[]> {
  const shipped = (await shippedModels()).map((name) => describe(name, join(shippedFolder(), name), 'shipped'))
  const hub = join(cacheDir, 'hub')
  const cached = (await modelFolders(hub, 4)).map((name) => describe(nameInCache(name), join(hub, name), 'cache'))
  return await Promise.all([...shipped, ...cached])
}

/**
 * One model: a shipped one or one in the cache by name, or a folder.
 *
 * @throws RankmillError `unknown_model`
 */
export async function showModel(reference: string, { cacheDir }: { cacheDir: string }): Promise<ListedModel> {
  const models = await listModels({ cacheDir })
  const found = models.find(({ name }) => name === reference || name === `rankmill-${reference}`)
  if (found) return found
  if ((await stat(reference).catch(() => undefined))?.isDirectory())
    return await describe(reference, resolve(reference), 'folder')
  const known = models.map(({ name }) => name).join(', ') || 'none'
  throw new RankmillError('unknown_model', `model "${reference}" is neither here (here are: ${known}) nor a folder`, {
    param: 'model',
  })
}

async function describe(name: string, folder: string, source: ListedModel['source']): Promise<ListedModel> {
  const orNothing = async <T>(reading: Promise<T>) => await reading.catch(() => undefined)
  const manifest = await orNothing(files.readManifest(folder))
  const [config, tokenizer, found, bytes] = await Promise.all([
    orNothing(files.readConfig(folder)),
    orNothing(files.readTokenizerFacts(folder)),
    files.findDtypes(folder, manifest),
    folderBytes(folder),
  ])
  const sizes = await Promise.all(
    Object.entries(found).map(async ([dtype, file]) => {
      const path = join(folder, file)
      const graph = await orNothing(files.readGraph(path))
      return [dtype, graph?.weightBytes ?? (await stat(path)).size]
    }),
  )
  return {
    name,
    source,
    folder,
    kind: manifest?.kind ?? 'cross-encoder',
    dtypes: Object.fromEntries(sizes),
    exits: manifest?.exits.length ?? 0,
    ...exitsInWords(manifest?.exits ?? []),
    bytes,
    maxTokens: config && tokenizer ? files.maxTokensOf(config, tokenizer, manifest) : null,
    licence: manifest?.licence ?? null,
  }
}

/** Folders below with a config.json, as paths relative to the first. */
async function modelFolders(folder: string, depth: number): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
  const here = entries.some(({ name }) => name === 'config.json') ? [''] : []
  if (depth === 0) return here
  const below = entries
    .filter((entry) => entry.isDirectory())
    .map(async ({ name }) => {
      return (await modelFolders(join(folder, name), depth - 1)).map((path) => join(name, path))
    })
  return [...here, ...(await Promise.all(below)).flat()]
}

/** `org/name/revision` in the cache is `org/name@revision` as a reference. */
function nameInCache(path: string): string {
  const [org, name, ...revision] = path.split(/[\\/]/).filter(Boolean)
  return `${org}/${name}${revision.length > 0 ? `@${revision.join('/')}` : ''}`
}

async function folderBytes(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => [])
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(join(entry.parentPath, entry.name))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}
