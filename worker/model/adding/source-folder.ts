/** What a model is added from: a folder or a revision of a hub, which files of it are needed, and whether it can be served. */
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { RankmillError } from '../../../shared/errors.js'
import { type Answers, readAnswers } from '../causal-head.js'
import { fault, isFile } from '../json-file.js'
import * as files from '../model-folder.js'
import { readSavedHead, withHead } from '../saved-head.js'
import { readSavedSettings } from '../sentence-transformers.js'
import { downloadFile, findSnapshot, type HubSnapshot } from './hub-client.js'

/** As in Python's huggingface_hub (validate_repo_id). */
const HUB_ID = /^[\w-][\w.-]{0,95}\/[\w-][\w.-]{0,95}$/
/** Besides graphs and weights, what a folder needs to load; modules of sentence-transformers have folders of their own. */
const SIDE_FILES = /^([^/]+\.(json|txt|model|jinja)|\d+_\w+\/config\.json)$/
const MODULE_WEIGHTS = /^\d+_\w+\/(model\.safetensors|pytorch_model\.bin)$/
const MODULE_FOLDER = /^\d+_\w+$/
const GRAPHS = ['onnx/model.onnx', 'model.onnx'] as const
const WEIGHTS = [
  /^model\.safetensors$/,
  /^model-\d+-of-\d+\.safetensors$/,
  /^pytorch_model\.bin$/,
  /^pytorch_model-\d+-of-\d+\.bin$/,
] as const

export interface Source {
  /** `org/name`, of a folder `local/name`. */
  readonly name: string
  /** A commit, or a digest of a folder's files: changes when any of them does. */
  readonly version: string
  /** Where its files are, or will be. */
  readonly folder: string
  readonly names: readonly string[]
  readonly licence: string | null
  /** Of a hub; files of a folder are there. */
  readonly snapshot: HubSnapshot | undefined
}

export interface SourceOptions {
  readonly revision: string
  /** Instead of the name that the reference gives. */
  readonly name: string | undefined
  readonly cacheDir: string
  readonly signal: AbortSignal
  readonly say: (line: string) => void
}

/**
 * Finds a source; of a hub nothing but the list of its files is fetched. Where the hub is not reached, what it said last is taken.
 *
 * @throws RankmillError `unknown_model`, `hub_denied`, `hub_unavailable`, `invalid_request`
 */
export async function findSource(reference: string, options: SourceOptions): Promise<Source> {
  const { revision, name, cacheDir, signal, say } = options
  if (name !== undefined && !HUB_ID.test(name)) throw invalid('name', `"${name}" is not of the form ORG/NAME`)
  const folder = resolve(reference)
  if (reference !== '' && (await stat(folder).catch(() => undefined))?.isDirectory()) {
    const plain =
      basename(folder)
        .replace(/[^\w.-]+/g, '-')
        .replace(/^\.+/, '') || 'model'
    return await localSource(folder, name ?? `local/${plain}`)
  }
  if (!HUB_ID.test(reference))
    throw new RankmillError('unknown_model', `model "${reference}": neither a folder nor an id of a hub (ORG/NAME)`, {
      param: 'model',
    })
  const downloads = join(cacheDir, 'downloads', reference)
  const note = join(downloads, 'revisions', `${encodeURIComponent(revision)}.json`)
  const snapshot = await findSnapshot(reference, revision, signal).catch(async (error: unknown) => {
    const before = await readFile(note, 'utf8').catch(() => undefined)
    if (!(error instanceof RankmillError) || error.code !== 'hub_unavailable' || before === undefined) throw error
    say(`${error.message}; going on with what it said before`)
    return JSON.parse(before) as HubSnapshot
  })
  await writeJson(note, snapshot)
  const { commit, licence } = snapshot
  const names = snapshot.files.map((file) => file.name)
  return { name: name ?? reference, version: commit, folder: join(downloads, commit), names, licence, snapshot }
}

async function localSource(folder: string, name: string): Promise<Source> {
  const entries = await readdir(folder, { withFileTypes: true })
  const inside = await readdir(join(folder, 'onnx')).catch(() => [])
  const modules = entries.filter((entry) => MODULE_FOLDER.test(entry.name)).map((entry) => entry.name)
  const ofModules = await Promise.all(
    modules.map(async (module) => (await readdir(join(folder, module))).map((file) => `${module}/${file}`)),
  )
  const names = [
    ...entries.map((entry) => entry.name),
    ...inside.map((file) => `onnx/${file}`),
    ...ofModules.flat(),
  ].sort()
  const used = names.filter((file) => isNeeded(file) || file.endsWith('.onnx'))
  const digest = createHash('sha256')
  for (const file of used) {
    const path = join(folder, file)
    const info = await stat(path)
    digest.update(
      JSON.stringify([file, info.size, SIDE_FILES.test(file) ? await readFile(path, 'utf8') : info.mtimeMs]),
    )
  }
  return {
    name,
    version: digest.digest('hex').slice(0, 40),
    folder,
    names,
    licence: await licenceIn(folder),
    snapshot: undefined,
  }
}

/** A model card begins with a block of YAML, of which one line is enough. */
async function licenceIn(folder: string): Promise<string | null> {
  const card = await readFile(join(folder, 'README.md'), 'utf8').catch(() => '')
  return /^---\n(?:.*\n)*?license:[ \t]*["']?([\w.+-]+)["']?[ \t]*\n(?:.*\n)*?---/.exec(card)?.[1] ?? null
}

function isNeeded(name: string): boolean {
  return (
    SIDE_FILES.test(name) ||
    MODULE_WEIGHTS.test(name) ||
    graphFiles([name]).length > 0 ||
    WEIGHTS.some((pattern) => pattern.test(name))
  )
}

/** The fp32 graph, then the files beside it that may hold its weights. */
export function graphFiles(names: readonly string[]): string[] {
  const graph = GRAPHS.find((name) => names.includes(name))
  const beside = GRAPHS.flatMap((start) =>
    names.filter((name) => /^[._]/.test(name.slice(start.length)) && name.startsWith(start)),
  )
  return graph === undefined ? beside : [graph, ...beside.filter((name) => name.startsWith(graph))]
}

/** The weights that transformers would load: safetensors before pickles. */
export function weightFiles(names: readonly string[]): string[] {
  for (const pattern of WEIGHTS) {
    const found = names.filter((name) => pattern.test(name))
    if (found.length > 0) return [...found, ...names.filter((name) => MODULE_WEIGHTS.test(name))]
  }
  return []
}

export function sideFiles(names: readonly string[]): string[] {
  return names.filter((name) => SIDE_FILES.test(name))
}

/**
 * Brings files of a source to its folder; those that are there stay.
 *
 * @param to another folder than the source's, of what is only looked at
 * @throws RankmillError as downloads do; the signal's reason
 */
export async function fetchFiles(
  { snapshot, folder, name: id }: Source,
  names: readonly string[],
  { signal, say }: Pick<SourceOptions, 'signal' | 'say'>,
  to = folder,
): Promise<void> {
  for (const file of snapshot?.files ?? []) {
    const path = join(to, file.name)
    if (!snapshot || !names.includes(file.name) || (await isFile(path))) continue
    if ((file.bytes ?? 0) > 1e7) say(`downloading ${id}: ${file.name}, ${((file.bytes ?? 0) / 1e6).toFixed(0)} MB`)
    await downloadFile(snapshot, file, path, { signal })
  }
}

/** Of a folder with nothing but the small files, what kind of head it has. */
export interface SourceHead {
  /** Of the labels the one that is the score; undefined where there is one, or two for no and yes. */
  readonly label: number | undefined
  readonly labels: readonly string[]
  readonly architecture: string
  readonly config: files.ModelConfig
  /** What makes the score: a head of the model's own, modules of sentence-transformers behind it, or two answers. */
  readonly form: 'head' | 'chain' | Answers
  /** Its network is code of the folder's own, which is never run. */
  readonly hasOwnCode: boolean
}

/**
 * Refuses what cannot be served, as far as the small files tell, before anything large is fetched.
 *
 * @param label a name of config.json's labels, or a number from 0
 * @throws RankmillError `invalid_model`, `invalid_request`
 */
export async function headOfSource(
  folder: string,
  names: readonly string[],
  label: string | undefined,
): Promise<SourceHead> {
  const file = join(folder, 'config.json')
  const config = await files.readConfig(folder)
  const manifest = await files.readManifest(folder)
  if (manifest && manifest.kind !== 'cross-encoder')
    throw fault(join(folder, 'rankmill.json'), `a ${manifest.kind} cannot be added, only a cross-encoder`)
  const { architectures } = config
  const architecture = architectures?.[0] ?? config.model_type
  if (graphFiles(names)[0]?.endsWith('.onnx') !== true && weightFiles(names).length === 0)
    throw fault(folder, 'there are neither weights (model.safetensors) nor an fp32 ONNX graph (onnx/model.onnx) in it')
  if (!names.includes('tokenizer.json'))
    throw fault(
      folder,
      'there is no tokenizer.json: save the tokeniser with transformers, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)',
    )
  const saved = await readSavedSettings(folder, 'CrossEncoder')
  const answers = await readAnswers(folder, config, await files.readTokenizerFacts(folder), saved)
  const chain = await readSavedHead(folder, saved)
  const form = answers ?? (chain === undefined ? 'head' : 'chain')
  if (form === 'head' && architectures?.[0] && !architecture.endsWith('ForSequenceClassification'))
    throw fault(
      file,
      `architectures: ${architecture} has no head that scores pairs; a cross-encoder is a …ForSequenceClassification`,
    )
  const hasOwnCode = Object.keys(config.auto_map ?? {}).some((name) => name.startsWith('AutoModel'))
  if (hasOwnCode && graphFiles(names)[0]?.endsWith('.onnx') !== true)
    throw fault(
      file,
      `auto_map: the network is code of the folder's own, which is never run; export it where you trust that, and add the folder with its onnx/model.onnx`,
    )
  // Without either field transformers takes two.
  const labels = answers ? ['yes'] : (files.labelsOf(withHead(config, chain)) ?? ['LABEL_0', 'LABEL_1'])
  const index = label === undefined ? manifest?.label : labelIndex(label, labels)
  files.checkLabel(file, config, labels.length, index)
  return { label: index, labels, architecture, config, form, hasOwnCode }
}

/** @throws RankmillError `invalid_request`, with the labels that there are */
export function labelIndex(label: string, labels: readonly string[]): number {
  const named = labels.findIndex((name) => name.toLowerCase() === label.toLowerCase())
  const index = named >= 0 ? named : /^\d+$/.test(label) ? Number(label) : -1
  if (index >= 0 && index < labels.length) return index
  const listed = labels.map((name, i) => `${i} ${name}`).join(', ')
  throw invalid('label', `the model has no label "${label}" (it has ${listed})`)
}

function invalid(param: string, message: string): RankmillError {
  return new RankmillError('invalid_request', `--${param}: ${message}`, { param })
}

/** @throws errors of the file system */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const temporary = `${path}.${process.pid}`
  await writeFile(temporary, `${JSON.stringify(value, null, 2)}\n`)
  await rename(temporary, path)
}
