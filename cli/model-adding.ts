/**
 * The steps from a hub's id or a folder to a model that workers serve. Each is kept as soon as it is done, so that the same
 * command, run again, goes on behind it; nothing is seen in the cache folder before it is whole.
 */
import { closeSync, existsSync, mkdirSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'
import {
  type Added,
  copySource,
  keyOf,
  type Measured,
  noteAdded,
  placeModel,
  readAdded,
  writeManifest,
} from '../worker/model/adding/added-model.js'
import { pythonWith, type Requirements, runPython } from '../worker/model/adding/python-environment.js'
import { compareWithReference, type ReferencePair } from '../worker/model/adding/reference-check.js'
import {
  fetchFiles,
  findSource,
  graphFiles,
  headOfSource,
  type Source,
  type SourceHead,
  sideFiles,
  weightFiles,
} from '../worker/model/adding/source-folder.js'
import { checkModel } from '../worker/model/model-check.js'
import { type QuantizedDtype, quantizeModel } from '../worker/model/model-quantization.js'
import { ListScorer } from '../worker/offline/list-scorer.js'
import { idsOf } from '../worker/offline/text-ids.js'
import { takeLock } from './embedded/folder-lock.js'
import type { MeasuredLists } from './measured-lists.js'
import { measuringTexts } from './measuring-texts.js'
import { MEASURING, measureQuantization, schemeLines } from './quantization-report.js'

export interface AddOptions {
  /** A number format to make beside fp32. */
  readonly dtype: QuantizedDtype | undefined
  readonly revision: string
  readonly label: string | undefined
  /** `org/name` that workers are to know it by. */
  readonly name: string | undefined
  /** Whether to compare with the reference. */
  readonly reference: boolean
  /** Replace what is there of another source. */
  readonly force: boolean
  /** What the model is measured with. */
  readonly sample: MeasuredLists
  readonly signal: AbortSignal
  readonly say: (line: string) => void
}

export interface AddedModel {
  readonly name: string
  readonly folder: string
  readonly added: Added
}

const exportedSchema = z.looseObject({
  inputs: z.array(z.string()),
  labels: z.int(),
  opset: z.int(),
  versions: z.record(z.string(), z.string()),
})

const LOCK_PATIENCE_MS = 500

/**
 * @param reference a folder, or an id of a hub
 * @throws RankmillError `unknown_model`, `hub_denied`, `hub_unavailable`, `invalid_model`, `invalid_request` (label, name),
 *   `python_unavailable`, `export_failed`, `reference_differs`, `quantization_failed`, `output_exists`; the signal's reason
 */
export async function addModel(reference: string, given: AddOptions, options: Options): Promise<AddedModel> {
  const { revision, name, force, signal, say } = given
  const { cacheDir } = options
  const letGo = await lock(join(cacheDir, 'adding'))
  try {
    const source = await findSource(reference, { revision, name, cacheDir, signal, say })
    await fetchFiles(source, sideFiles(source.names), given)
    const head = await headOfSource(source.folder, source.names, given.label)
    await refuseFaulty(source.folder, { graphs: false })
    const ownPlace = source.snapshot && revision !== 'main' ? [revision] : []
    const target = join(cacheDir, 'hub', source.name, ...ownPlace)
    const known = [source.name, ...ownPlace].join('@')
    const key = keyOf(source, head)
    const there = await readAdded(target)
    if (there?.key === key && !force) say(`${known} is here already: ${target}`)
    else {
      if (there && !force) throw taken(known, there, source)
      await build(source, head, { ...given, key, target }, options)
    }
    const { dtype } = given
    if (dtype !== undefined) await addDtype(target, dtype, given, options)
    const added = await readAdded(target)
    if (!added) throw new RankmillError('internal', `${target} was not put in place`)
    return { name: known, folder: target, added }
  } finally {
    letGo()
  }
}

function taken(name: string, { from, version, labels }: Added, source: Source): RankmillError {
  const was = `${from} at ${version.slice(0, 12)}${labels.length > 2 ? ', perhaps with another label' : ''}`
  const message = `${name} is here already, made of ${was}; this is ${source.version.slice(0, 12)}: --force replaces it, --name ORG/NAME puts this beside it`
  return new RankmillError('output_exists', message, { param: 'name' })
}

async function lock(folder: string): Promise<() => void> {
  mkdirSync(folder, { recursive: true })
  const held = await takeLock(join(folder, 'lock'), LOCK_PATIENCE_MS)
  if (held === undefined)
    throw new RankmillError('output_in_use', `another \`rankmill models add\` is at work in ${folder}: wait for it`)
  return () => closeSync(held)
}

interface Building extends AddOptions {
  readonly key: string
  readonly target: string
}

/** The fp32 model: graph, check, reference, speed; then in place. */
async function build(source: Source, head: SourceHead, given: Building, options: Options): Promise<void> {
  const { key, target, signal, say } = given
  const folder = join(options.cacheDir, 'adding', key)
  const made = join(folder, 'model')
  if (given.force) await rm(folder, { recursive: true, force: true })
  let added: Added = (await readAdded(made).catch(() => undefined)) ?? {
    key,
    from: source.snapshot ? source.snapshot.id : source.folder,
    version: source.version,
    at: new Date().toISOString(),
    architecture: head.architecture,
    labels: [...head.labels],
    measured: {},
  }
  if (!existsSync(join(made, 'rankmill.json'))) {
    await rm(made, { recursive: true, force: true })
    await mkdir(folder, { recursive: true })
    const exported = await graphOf(source, head, made, given, options)
    added = { ...added, ...(exported ? { exported } : {}) }
    await writeManifest(made, source, head, added)
  }
  const checked = await refuseFaulty(made, {})
  say(`checked: ${checked}`)
  if (given.reference && !added.reference) await compare(source, head, made, given, options)
  if (!added.measured.fp32) {
    const measured = await speedOf(made, given, options)
    await noteAdded(made, (now) => ({ ...now, measured: { ...now.measured, fp32: measured } }))
    say(`fp32: ${measured.pairsPerSecond.toFixed(1)} pairs/s on ${given.sample.name}`)
  }
  signal.throwIfAborted()
  await placeModel(made, target)
  await rm(folder, { recursive: true, force: true })
  say(`put in place: ${target}`)
}

async function graphOf(
  source: Source,
  { form }: SourceHead,
  made: string,
  given: Building,
  options: Options,
): Promise<Added['exported']> {
  const graphs = graphFiles(source.names)
  if (graphs[0]?.endsWith('.onnx') === true) {
    await fetchFiles(source, graphs, given)
    await copySource(source, made, true)
    return undefined
  }
  await fetchFiles(source, weightFiles(source.names), given)
  const python = await pythonFor('export-requirements.txt', given, options)
  given.say(`exporting ${source.name}: there is no ONNX graph`)
  await copySource(source, made, false)
  const path = join(made, 'onnx', 'model.onnx')
  const said = await runPython(python, 'export.py', [source.folder, path, ...formOf(form)], '', given.signal)
  const { inputs, opset, versions } = exportedSchema.parse(said)
  return { inputs, opset, versions }
}

/** What export.py is told of the score. */
function formOf(form: SourceHead['form']): string[] {
  if (form === 'head') return []
  if (form === 'chain') return ['--chain']
  const { trueId, falseId } = form
  // A head of two columns says which they are; of one answer, the other column is nobody's.
  return ['--answers', `${falseId ?? (trueId === 0 ? 1 : 0)},${trueId}`]
}

async function compare(
  source: Source,
  { hasOwnCode }: SourceHead,
  made: string,
  given: Building,
  options: Options,
): Promise<void> {
  if (hasOwnCode) {
    given.say(
      "not compared with the reference: config.json names code of the folder's own (auto_map), which is never run",
    )
    return
  }
  const weights = weightFiles(source.names)
  if (weights.length === 0) {
    given.say('not compared with the reference: there are no weights beside the graph')
    return
  }
  await fetchFiles(source, weights, given)
  const python = await pythonFor('export-requirements.txt', given, options)
  const own: readonly ReferencePair[] = given.sample.areOwn
    ? given.sample.lists.flatMap(({ query, documents }) => documents.map(({ text }) => [query, text] as const))
    : []
  const { signal } = given
  const reference = await compareWithReference(source.folder, made, { python, options, pairs: own, signal }).catch(
    (error: unknown) => {
      if (!(error instanceof RankmillError) || error.code !== 'export_failed') throw error
      const message = `the reference does not load it: ${error.message}; --no-reference adds it all the same`
      throw new RankmillError('export_failed', message, {}, { cause: error })
    },
  )
  await noteAdded(made, (now) => ({ ...now, reference }))
  const versions = Object.entries(reference.versions).map(([name, version]) => `${name} ${version}`)
  given.say(
    `compared with ${versions.join(', ')}: ${reference.pairs} pairs, greatest difference of a logit ${reference.greatestDifference.toExponential(0)}`,
  )
}

async function speedOf(folder: string, { sample, signal }: AddOptions, options: Options): Promise<Measured> {
  const [{ query, documents } = { query: '', documents: [] }] = sample.lists
  const scorer = await ListScorer.open(folder, { ...options, dtype: 'fp32' }, signal)
  try {
    const texts = documents.map(({ text }) => text)
    const { ms } = await scorer.score(query, texts)
    return { at: new Date().toISOString(), pairsPerSecond: (texts.length * 1000) / ms }
  } finally {
    await scorer.close()
  }
}

/** Made in place, where it appears whole; again where nobody knows what it is worth. */
async function addDtype(target: string, dtype: QuantizedDtype, given: AddOptions, options: Options): Promise<void> {
  const { signal, say, sample } = given
  if ((await readAdded(target))?.measured[dtype] && !given.force) {
    say(`${dtype} is here already`)
    return
  }
  const python = await pythonFor('quantize-requirements.txt', given, options)
  say(`quantising to ${dtype}${dtype === 'int8' ? MEASURING : ''}`)
  const texts = async (folder: string) => idsOf(folder, await measuringTexts(sample), options)
  const { threads } = options
  const model = await quantizeModel(target, { dtype, out: undefined, force: true, python, threads, texts, signal })
  for (const line of schemeLines(model)) say(line)
  const { formats, agreement } = await measureQuantization(model, dtype, sample.lists, sample.name, options, signal)
  const [fp32, other] = formats
  const measured: Measured = {
    at: new Date().toISOString(),
    pairsPerSecond: other.pairsPerSecond,
    greatestDifference: agreement.greatestDifference,
    rankCorrelation: agreement.rankCorrelation.mean,
    batchInvariant: other.batchInvariant,
  }
  await noteAdded(target, (now) => ({
    ...now,
    measured: {
      ...now.measured,
      fp32: { ...now.measured.fp32, at: measured.at, pairsPerSecond: fp32.pairsPerSecond },
      [dtype]: measured,
    },
  }))
  say(
    `${dtype}: ${other.pairsPerSecond.toFixed(1)} pairs/s (fp32: ${fp32.pairsPerSecond.toFixed(1)}), rank correlation ` +
      `${agreement.rankCorrelation.mean.toFixed(4)}, greatest difference of a score ${agreement.greatestDifference.toFixed(4)}, on ${sample.name}`,
  )
}

/** The interpreter that is named, or one with what torch needs, which has what quantising needs, too. */
async function pythonFor(needed: Requirements, { signal, say }: AddOptions, options: Options): Promise<string> {
  const { python, cacheDir } = options
  return await pythonWith(needed, { python, cacheDir, signal, say })
}

/** @throws RankmillError `invalid_model` with the first fault */
async function refuseFaulty(folder: string, what: { graphs?: boolean }): Promise<string> {
  const { findings } = await checkModel(folder, what)
  const broken = findings.find(({ ok }) => !ok)
  if (broken) throw new RankmillError('invalid_model', broken.detail)
  return `${findings.length} findings, all well`
}
