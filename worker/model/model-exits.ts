/** Exits: a model in consecutive ONNX stages, so that scoring may stop between them. */
import { dirname, join, relative } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import type { BoundFile } from './bound-files.js'
import { fault } from './json-file.js'
import { fingerprintOf } from './model-fingerprint.js'
import { type Dtype, readGraph } from './model-folder.js'

const exitSchema = z.looseObject({
  layer: z.int().positive().optional(),
  files: z.record(z.string(), z.string()).optional(),
  /** final logit = scale * logit at the exit + offset, as near as a line comes. */
  calibration: z.strictObject({ scale: z.number().positive(), offset: z.number() }).optional(),
  /** By confidence: how far below the wanted rank a candidate may be here and still reach it. */
  margins: z.record(z.string(), z.number().nonnegative()).optional(),
})

/** A place where scoring may stop, and the stage that leads there. Frozen plain data: it is sent to threads. */
export interface ModelExit {
  /** Layers of the model up to here. */
  readonly layer: number
  /** The stage's ONNX file. */
  readonly path: string
  /** What it hands to the next stage: sizes of the axes behind the batch's; null is the tokens' axis. */
  readonly carries: Readonly<Record<string, readonly (number | null)[]>>
  /** Final logit = scale * logit + offset, as near as a line comes. */
  readonly calibration: { readonly scale: number; readonly offset: number }
  /**
   * Confidence -> how far, in logits, a candidate's calibrated score may be below that of the wanted rank and the candidate
   * still reach it. Empty at the last exit, and where none were learned.
   */
  readonly margins: readonly { readonly confidence: number; readonly margin: number }[]
  /** Changes when anything changes that the score at this exit depends on, the tokeniser included. */
  readonly fingerprint: string
  /** What the fingerprint stands for. */
  readonly files?: readonly BoundFile[]
}

/**
 * The exits of a model in one number format, the last being the whole model; none where there are no stages in it.
 *
 * @throws RankmillError `invalid_model`
 */
export async function openExits(
  folder: string,
  declared: readonly unknown[],
  dtype: Dtype,
  cacheDir: string,
  digests: Readonly<Record<string, string>> = {},
): Promise<readonly ModelExit[]> {
  const manifest = join(folder, 'rankmill.json')
  const parsed = declared.map((exit, i) => {
    const { data, error } = exitSchema.safeParse(exit)
    if (!data) throw fault(manifest, `exits.${i}.${error.issues[0]?.path.join('.')}: ${error.issues[0]?.message}`)
    return data
  })
  if (parsed.length < 2 || parsed.some(({ files }) => files?.[dtype] === undefined)) return []
  const exits: ModelExit[] = []
  const paths: string[] = []
  for (const [i, { layer, files, calibration, margins }] of parsed.entries()) {
    const path = join(folder, files?.[dtype] ?? '')
    const before = exits.at(-1)?.layer ?? 0
    if (layer === undefined || layer <= before)
      throw fault(manifest, `exits.${i}.layer: must be above ${before}, got ${layer}`)
    const { outputs, externalFiles } = await readGraph(path)
    const isLast = i === parsed.length - 1
    const carries: Record<string, readonly (number | null)[]> = {}
    for (const { name, shape, type } of isLast ? [] : outputs) {
      if (name === 'logits') continue
      if (type !== FLOAT) throw fault(path, `the output "${name}" is not float32`)
      if (shape.slice(1).filter((size) => size === null).length > 1)
        throw fault(path, `the output "${name}" has more than one axis of unknown size behind the batch's`)
      carries[name] = Object.freeze(shape.slice(1))
    }
    const beside = [...paths.map((earlier) => relative(dirname(path), earlier)), ...externalFiles]
    exits.push(
      Object.freeze({
        layer,
        path,
        carries: Object.freeze(carries),
        calibration: calibration ?? { scale: 1, offset: 0 },
        margins: Object.entries(margins ?? {})
          .map(([confidence, margin]) => ({ confidence: Number(confidence), margin }))
          .sort((a, b) => a.confidence - b.confidence),
        ...(await fingerprintOf(folder, path, beside, dtype, cacheDir, digests)),
      }),
    )
    paths.push(path)
  }
  return Object.freeze(exits)
}

const FLOAT = 1

/** What there is to know of declared exits without opening them; those that are damaged are left out. */
export function exitsInWords(declared: readonly unknown[]): { exitLayers: number[]; exitConfidences: number[] } {
  const exits = declared.map((exit) => exitSchema.safeParse(exit).data).filter((exit) => exit !== undefined)
  const [first, ...others] = exits.slice(0, -1).map(({ margins }) => Object.keys(margins ?? {}))
  const common = (first ?? []).filter((confidence) => others.every((each) => each.includes(confidence)))
  return {
    exitLayers: exits.flatMap(({ layer }) => layer ?? []),
    exitConfidences: common.map(Number).sort((a, b) => a - b),
  }
}

/** Stage files of the exits, in order, by number format; entries that name none are left out. */
function stagesOf(exits: readonly unknown[]): Map<string, string[]> {
  const stages = new Map<string, string[]>()
  for (const exit of exits) {
    const files = exitSchema.safeParse(exit).data?.files ?? {}
    for (const [dtype, file] of Object.entries(files)) stages.set(dtype, [...(stages.get(dtype) ?? []), file])
  }
  return stages
}

/**
 * Checks that the exits chain: what a stage asks for beyond the model's own inputs is what the one before gives, and all
 * number formats have as many stages as there are exits.
 *
 * @returns what was found, in words
 * @throws RankmillError `invalid_model`
 */
export async function checkExits(folder: string, exits: readonly unknown[]): Promise<string> {
  const stages = stagesOf(exits)
  for (const [dtype, files] of stages) {
    const at = (file: string, what: string) => new RankmillError('invalid_model', `${join(folder, file)}: ${what}`)
    if (files.length !== exits.length)
      throw at(files[0] ?? '', `${dtype} has ${files.length} stages for ${exits.length} exits`)
    let given: ReadonlyMap<string, string> = new Map()
    for (const [stage, file] of files.entries()) {
      const graph = await readGraph(join(folder, file))
      const shapeOf = (shape: readonly (number | null)[]) => String(shape.at(-1) ?? '?')
      for (const { name, shape } of graph.inputs) {
        if (/^(input_ids|attention_mask|token_type_ids)$/.test(name)) continue
        const before = given.get(name)
        if (before === undefined)
          throw at(file, `stage ${stage + 1} asks for "${name}", which the stage before does not give`)
        const width = shapeOf(shape)
        if (width !== '?' && before !== '?' && width !== before) {
          throw at(file, `stage ${stage + 1} asks for "${name}" of width ${width}, the stage before gives ${before}`)
        }
      }
      if (!graph.outputs.some(({ name }) => name === 'logits'))
        throw at(file, `stage ${stage + 1} has no output "logits"`)
      given = new Map(graph.outputs.map(({ name, shape }) => [name, shapeOf(shape)]))
    }
  }
  const formats = [...stages.keys()].join(', ') || 'no stage files named'
  return `${exits.length} exits (${formats})`
}
