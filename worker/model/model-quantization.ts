/** Makes another number format of a user's model, by training/quantize.py: written beside, tried, and only then put in place. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { Dtype } from '../../shared/protocol/dtype.js'
import { readAnswers } from './causal-head.js'
import { fault, isFile } from './json-file.js'
import { checkModel } from './model-check.js'
import * as files from './model-folder.js'
import { shippedFolder } from './model-reference.js'
import { readSavedSettings } from './sentence-transformers.js'

/** Those that can be made from fp32. */
export const QUANTIZED_DTYPES = ['int8', 'int4', 'fp16'] as const satisfies readonly Dtype[]
export type QuantizedDtype = (typeof QUANTIZED_DTYPES)[number]

export interface QuantizationOptions {
  readonly dtype: QuantizedDtype
  /** A folder for the new format, with copies of the tokeniser and the configuration; undefined: the model's own. */
  readonly out: string | undefined
  /** Of a causal model: all of the head, or what its answers need. */
  readonly head?: 'whole' | 'yes-no'
  /** Replace what is there. */
  readonly force: boolean
  /** The interpreter, with numpy, onnx and, for steps that are measured, onnxruntime. */
  readonly python: string
  /** int8: what steps are measured on, of the model in this folder; without them every token has a step of its own. */
  readonly texts?: (folder: string) => Promise<TextIds | undefined>
  /** To run the graph on texts with; 0: all there are. */
  readonly threads?: number
  readonly signal: AbortSignal
}

/** A pair's token ids, and the index of the passage's first. */
type PairIds = readonly [ids: readonly number[], secondStart: number]

/** Texts as training/calibration.py reads them. */
export interface TextIds {
  readonly pad: number
  readonly measured: readonly PairIds[]
  readonly held_out: readonly (readonly PairIds[])[]
}

const triedScheme = z.object({
  /** Mean over the lists that are held out. */
  rankCorrelation: z.number(),
  /** What scores are off by, as a share of how they vary within their list. */
  noise: z.number(),
  /** How far padding moves a logit. */
  moved: z.number(),
})

const scriptOutput = z.object({
  /** Linear layers, and embedding tables, that were rewritten. */
  linears: z.int(),
  tables: z.int(),
  /** Of the ONNX file, weights beside it included. */
  bytes: z.int(),
  /** int8: whether activations have steps that were measured, or one for each token. */
  steps: z.enum(['fixed', 'row']).optional(),
  /** Why not measured ones, where that was not found by comparing. */
  why: z.string().optional(),
  /** Linear layers without a step a token, or with one for GELU's rows alone. */
  fixed: z.int().optional(),
  /** Linear layers that compute the first tokens alone. */
  first: z.int().optional(),
  tried: z.object({ fixed: triedScheme, row: triedScheme }).optional(),
})

export interface QuantizedModel extends z.output<typeof scriptOutput> {
  /** The fp32 file it was made of, and its model's folder. */
  readonly source: string
  readonly sourceFolder: string
  readonly sourceBytes: number
  readonly folder: string
  /** The new ONNX file. */
  readonly path: string
}

const TRAINING = join(dirname(shippedFolder()), 'training')
const SCRIPT = join(TRAINING, 'quantize.py')
const REQUIREMENTS = join(TRAINING, 'quantize-requirements.txt')
/** What the script ends with. */
const SCRIPT_UNSUITABLE = 3
const SCRIPT_LACKS_PACKAGES = 4
/** Besides the graph, what a folder needs to load. */
const SIDE_FILES = /\.(json|txt|model|jinja)$/

/**
 * Writes `onnx/model_<dtype>.onnx`. Nothing of the folder changes before the new file has been loaded and run once.
 *
 * @param path a folder in Hugging Face layout with an fp32 graph
 * @throws RankmillError `unknown_model` (no folder), `invalid_model` (no fp32 cross-encoder), `output_exists`,
 *   `output_unwritable`, `python_unavailable`, `quantization_failed`; or the signal's reason
 */
export async function quantizeModel(path: string, options: QuantizationOptions): Promise<QuantizedModel> {
  const folder = resolve(path)
  if (!(await stat(folder).catch(() => undefined))?.isDirectory())
    throw new RankmillError('unknown_model', `${path} is not a folder`, { param: 'path' })
  const manifest = await files.readManifest(folder)
  if (manifest && manifest.kind !== 'cross-encoder')
    throw fault(join(folder, 'rankmill.json'), `a ${manifest.kind} cannot be quantised here, only a cross-encoder`)
  const { fp32 } = await files.findDtypes(folder, manifest)
  if (fp32 === undefined)
    throw fault(folder, 'there is no fp32 file to start from (onnx/model.onnx, or what rankmill.json names)')
  const answers = options.head === 'yes-no' ? await answersOf(folder) : undefined
  const out = resolve(options.out ?? folder)
  const name = `onnx/model_${options.dtype}.onnx`
  await refuseTaken(out, name, options)
  const staging = await stagingFolder(out)
  try {
    await copySideFiles(folder, staging)
    await mkdir(join(staging, 'onnx'))
    const texts = await keepTexts(folder, staging, options)
    const done = await runScript(join(folder, fp32), join(staging, name), answers, texts, options)
    await refuseBroken(staging, manifest?.label)
    if (out !== folder) await placeSideFiles(staging, out, options.force)
    const written = (await readdir(join(staging, 'onnx'))).sort((a, b) => b.length - a.length)
    await mkdir(join(out, 'onnx'), { recursive: true })
    // Weights before the graph that reads them.
    for (const file of written) await rename(join(staging, 'onnx', file), join(out, 'onnx', file))
    await noteInManifest(folder, out, name, options.dtype, staging)
    const source = join(folder, fp32)
    const sourceBytes = await bytesOf(source)
    return { ...done, source, sourceFolder: folder, sourceBytes, folder: out, path: join(out, name) }
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

/** In a folder of its own, which is not put in place. */
async function keepTexts(
  folder: string,
  staging: string,
  { dtype, texts }: QuantizationOptions,
): Promise<string | undefined> {
  const ids = dtype === 'int8' ? await texts?.(folder) : undefined
  if (ids === undefined) return undefined
  const file = join(staging, 'texts', 'texts.json')
  await mkdir(dirname(file))
  await writeFile(file, JSON.stringify(ids))
  return file
}

/** The tokens that a causal model answers with. */
async function answersOf(folder: string): Promise<[no: number, yes: number]> {
  const [config, tokenizer] = await Promise.all([files.readConfig(folder), files.readTokenizerFacts(folder)])
  const found = await readAnswers(folder, config, tokenizer, await readSavedSettings(folder, 'CrossEncoder'))
  if (found && found.falseId !== null) return [found.falseId, found.trueId]
  const what = found
    ? 'the model answers with one token alone'
    : 'the model is no causal one, and has a head of its own'
  throw new RankmillError('invalid_model', `${folder}: --head yes-no: ${what}`, { param: 'head' })
}

/** In the folder itself, because a rename is only whole within one file system. */
async function stagingFolder(out: string): Promise<string> {
  try {
    await mkdir(out, { recursive: true })
    return await mkdtemp(join(out, '.quantize-'))
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new RankmillError('output_unwritable', `${out}: ${reason}`, { param: 'out' }, { cause })
  }
}

/** A graph with the weights in files beside it. */
async function bytesOf(path: string): Promise<number> {
  const { externalFiles } = await files.readGraph(path)
  const paths = [path, ...externalFiles.map((name) => join(dirname(path), name))]
  const sizes = await Promise.all(paths.map(async (file) => (await stat(file)).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}

async function refuseTaken(out: string, name: string, { dtype, force }: QuantizationOptions): Promise<void> {
  const manifest = await files.readManifest(out)
  const present = await files.findDtypes(out, manifest)
  const isThere = await isFile(join(out, name))
  const taken = present[dtype] ?? (isThere ? name : undefined)
  if (taken === undefined) return
  if (!force) {
    const message = `${join(out, taken)}: the folder has an ${dtype} file already; --force replaces it, --out DIR writes elsewhere`
    throw new RankmillError('output_exists', message, { param: 'out' })
  }
  if (!isThere) return
  for (const entry of await readdir(join(out, 'onnx'))) {
    if (!entry.endsWith('.onnx') || entry === basename(name)) continue
    const { externalFiles } = await files.readGraph(join(out, 'onnx', entry))
    if (!externalFiles.includes(basename(name))) continue
    const message = `${join(out, name)}: ${entry} reads its weights out of it, so that it cannot be replaced; --out DIR writes elsewhere`
    throw new RankmillError('output_exists', message, { param: 'out' })
  }
}

async function copySideFiles(from: string, to: string): Promise<void> {
  for (const name of await sideFiles(from)) {
    await mkdir(dirname(join(to, name)), { recursive: true })
    await copyFile(join(from, name), join(to, name))
  }
}

/** With the configurations of sentence-transformers' modules, which are in folders of their own. */
async function sideFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true })
  const own = entries.filter((entry) => !entry.isDirectory() && SIDE_FILES.test(entry.name)).map(({ name }) => name)
  const modules = entries.filter((entry) => entry.isDirectory() && /^\d+_/.test(entry.name))
  const there = await Promise.all(modules.map(({ name }) => isFile(join(folder, name, 'config.json'))))
  const within = modules.filter((_, i) => there[i]).map(({ name }) => join(name, 'config.json'))
  return [...own.filter((name) => name !== 'rankmill.json'), ...within]
}

/** Of another folder than the model's own: the same files may be there from an earlier format, others may not. */
async function placeSideFiles(staging: string, out: string, force: boolean): Promise<void> {
  const entries = await sideFiles(staging)
  for (const name of entries) {
    const there = await readFile(join(out, name)).catch(() => undefined)
    if (there === undefined || force || there.equals(await readFile(join(staging, name)))) continue
    const message = `${join(out, name)}: is of another model; --force replaces it`
    throw new RankmillError('output_exists', message, { param: 'out' })
  }
  for (const name of entries) {
    await mkdir(dirname(join(out, name)), { recursive: true })
    await rename(join(staging, name), join(out, name))
  }
}

async function runScript(
  source: string,
  target: string,
  answers: readonly [no: number, yes: number] | undefined,
  texts: string | undefined,
  { dtype, python, signal, threads = 0 }: QuantizationOptions,
): Promise<z.output<typeof scriptOutput>> {
  const head = answers ? ['--head', answers.join(',')] : []
  const measured = texts === undefined ? [] : ['--texts', texts, '--threads', String(threads)]
  const args = [SCRIPT, source, target, '--dtype', dtype, ...head, ...measured]
  try {
    const { stdout } = await promisify(execFile)(python, args, { signal, windowsHide: true })
    return scriptOutput.parse(JSON.parse(stdout))
  } catch (cause) {
    signal.throwIfAborted()
    throw scriptError(cause, python)
  }
}

function scriptError(cause: unknown, python: string): RankmillError {
  const { code, signal, stderr = '' } = cause as { code?: number | string; signal?: string | null; stderr?: string }
  const said = stderr.trim().split('\n').at(-1) ?? ''
  const packages = (interpreter: string) =>
    `numpy and onnx are needed: ${quoted(interpreter)} -m pip install -r ${quoted(REQUIREMENTS)}`
  if (typeof code === 'string') {
    const message = `--python: "${python}" cannot be run (${code}); with one that can, ${packages('python3')}`
    return new RankmillError('python_unavailable', message, { param: 'python' })
  }
  if (code === SCRIPT_LACKS_PACKAGES)
    return new RankmillError('python_unavailable', `--python: ${said}; ${packages(python)}`, { param: 'python' })
  if (code === SCRIPT_UNSUITABLE) return new RankmillError('quantization_failed', said)
  if (code === undefined && !signal)
    return new RankmillError('quantization_failed', `${SCRIPT}: what it printed is not understood`, {}, { cause })
  const end = signal ? `was ended by ${signal} (for want of memory?)` : `ended with ${code}: ${said}`
  return new RankmillError('quantization_failed', `${SCRIPT} ${end}`, {}, { cause })
}

/** For a command line that is pasted. */
function quoted(path: string): string {
  return /\s/.test(path) ? JSON.stringify(path) : path
}

async function refuseBroken(staging: string, label: number | undefined): Promise<void> {
  const { findings } = await checkModel(staging, { label })
  const broken = findings.find(({ ok }) => !ok)
  if (!broken) return
  const message = `what came out does not load: ${broken.what}: ${broken.detail.replaceAll(`${staging}/`, '')}`
  throw new RankmillError('quantization_failed', message)
}

const object = z.record(z.string(), z.unknown())
const exit = z.looseObject({ files: object })

/** rankmill.json, where the model has one, names its formats; a copy elsewhere names only those that are there. */
async function noteInManifest(
  folder: string,
  out: string,
  name: string,
  dtype: QuantizedDtype,
  staging: string,
): Promise<void> {
  const isOwn = folder === out
  const there = await readFile(join(out, 'rankmill.json'), 'utf8').catch(() => undefined)
  const original = there ?? (await readFile(join(folder, 'rankmill.json'), 'utf8').catch(() => undefined))
  if (original === undefined) return
  const manifest = object.parse(JSON.parse(original))
  if (there === undefined && !isOwn)
    Object.assign(manifest, { dtypes: {}, exits: [], sha256: {}, default_dtype: undefined })
  // Stages of the replaced file: what they give is not what the new one would.
  if (Array.isArray(manifest.exits)) manifest.exits = manifest.exits.map((entry) => withoutStage(entry, dtype))
  manifest.dtypes = { ...object.parse(manifest.dtypes), [dtype]: name }
  if (manifest.sha256 !== undefined) {
    const digest = createHash('sha256').update(await readFile(join(out, name)))
    manifest.sha256 = { ...object.parse(manifest.sha256), [name]: digest.digest('hex') }
  }
  await writeFile(join(staging, 'rankmill.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  await rename(join(staging, 'rankmill.json'), join(out, 'rankmill.json'))
}

function withoutStage(entry: unknown, dtype: QuantizedDtype): unknown {
  const { data } = exit.safeParse(entry)
  if (data === undefined) return entry
  const { [dtype]: _, ...files } = data.files
  return { ...data, files }
}
