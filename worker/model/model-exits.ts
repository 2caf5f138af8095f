/** Exits: a model in consecutive ONNX stages, so that scoring may stop between them. */
import { join } from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { readGraph } from './model-folder.js'

const exitSchema = z.looseObject({
  layer: z.int().positive().optional(),
  files: z.record(z.string(), z.string()).optional(),
})

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
