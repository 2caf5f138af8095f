/** What is known of a model that was added: kept in its rankmill.json, and put in place with its files. */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { bindFile } from '../bound-files.js'
import { graphFiles, type Source, type SourceHead, sideFiles, writeJson } from './source-folder.js'

const versions = z.record(z.string(), z.string())

const addedSchema = z.looseObject({
  /** Stands for everything that the fp32 graph and its score are made of. */
  key: z.string(),
  from: z.string(),
  version: z.string(),
  at: z.string(),
  architecture: z.string(),
  labels: z.array(z.string()).default([]),
  /** Absent where the source had a graph. */
  exported: z.looseObject({ opset: z.int(), inputs: z.array(z.string()), versions }).optional(),
  /** Absent where there was nothing to compare with, or it was not wanted. */
  reference: z
    .looseObject({
      at: z.string(),
      pairs: z.int(),
      /** Of logits. */
      greatestDifference: z.number(),
      tolerance: z.number(),
      versions,
    })
    .optional(),
  /** By number format. */
  measured: z
    .record(
      z.string(),
      z.looseObject({
        at: z.string(),
        pairsPerSecond: z.number(),
        /** Of a smaller format, against fp32. */
        greatestDifference: z.number().optional(),
        rankCorrelation: z.number().optional(),
        batchInvariant: z.boolean().optional(),
      }),
    )
    .default({}),
})
export type Added = z.output<typeof addedSchema>
export type Measured = Added['measured'][string]

const manifestSchema = z.looseObject({ added: z.unknown() })
const object = z.record(z.string(), z.unknown())

/** Changes where the same source is made into something else. */
const MAKING = 1

export function keyOf({ version }: Source, { label }: SourceHead): string {
  return createHash('sha256')
    .update(JSON.stringify([MAKING, version, label ?? null]))
    .digest('hex')
    .slice(0, 16)
}

/** @returns undefined for folders that were not added */
export async function readAdded(folder: string): Promise<Added | undefined> {
  const text = await readFile(join(folder, 'rankmill.json'), 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  const { added } = manifestSchema.parse(JSON.parse(text))
  return added === undefined ? undefined : addedSchema.parse(added)
}

/** Notes what was found out since. */
export async function noteAdded(folder: string, change: (added: Added) => Added): Promise<void> {
  const path = join(folder, 'rankmill.json')
  const manifest = object.parse(JSON.parse(await readFile(path, 'utf8')))
  await writeJson(path, { ...manifest, added: change(addedSchema.parse(manifest.added)) })
}

/** Copies what a model needs beside its graph; the graph too, where the source has one. */
export async function copySource({ folder, names }: Source, to: string, withGraph: boolean): Promise<void> {
  await mkdir(join(to, 'onnx'), { recursive: true })
  for (const name of sideFiles(names)) {
    if (name === 'rankmill.json' || name.endsWith('.index.json')) continue
    await mkdir(dirname(join(to, name)), { recursive: true })
    await copyFile(join(folder, name), join(to, name))
  }
  if (!withGraph) return
  for (const name of graphFiles(names)) await copyFile(join(folder, name), join(to, 'onnx', basename(name)))
}

/** Writes the rankmill.json of a new model with digests of its files; what the source's own says of the model stays. */
export async function writeManifest(
  folder: string,
  source: Source,
  { label }: SourceHead,
  added: Added,
): Promise<void> {
  const text = await readFile(join(source.folder, 'rankmill.json'), 'utf8').catch(() => '{}')
  const { exits: _, batch_invariant: __, default_dtype: ___, ...kept } = object.parse(JSON.parse(text))
  const sha256: Record<string, string> = {}
  for (const file of await readdir(join(folder, 'onnx'))) {
    const bound = await bindFile(join(folder, 'onnx', file), join(folder, '..'))
    if (bound) sha256[`onnx/${file}`] = bound.sha256
  }
  await writeJson(join(folder, 'rankmill.json'), {
    ...kept,
    name: source.name,
    kind: 'cross-encoder',
    ...(label === undefined ? {} : { label }),
    ...(source.licence === null ? {} : { licence: source.licence }),
    dtypes: { fp32: 'onnx/model.onnx' },
    sha256,
    added,
  })
}

/**
 * Puts a finished folder in its place. Where a folder is there already, file by file, rankmill.json last: its digests refuse a
 * mixture, and revisions in folders below stay.
 */
export async function placeModel(made: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true })
  const isThere = (await readdir(target).catch(() => undefined)) !== undefined
  if (!isThere) {
    await rename(made, target)
    return
  }
  await mkdir(join(target, 'onnx'), { recursive: true })
  const graphs = await readdir(join(made, 'onnx'))
  // Weights before the graph that reads them.
  for (const name of [...graphs].sort((a, b) => b.length - a.length))
    await rename(join(made, 'onnx', name), join(target, 'onnx', name))
  const entries = (await readdir(made)).filter((name) => name !== 'onnx' && name !== 'rankmill.json')
  for (const name of [...entries, 'rankmill.json']) {
    // A folder of a module is not replaced by another one.
    if ((await stat(join(made, name))).isDirectory()) await rm(join(target, name), { recursive: true, force: true })
    await rename(join(made, name), join(target, name))
  }
  // Of the model that was there before.
  for (const name of await readdir(join(target, 'onnx')))
    if (!graphs.includes(name)) await rm(join(target, 'onnx', name), { recursive: true })
  for (const name of sideFiles(await readdir(target)))
    if (![...entries, 'rankmill.json'].includes(name)) await rm(join(target, name))
}
