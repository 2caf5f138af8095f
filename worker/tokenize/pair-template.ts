/** The special tokens around and between the two segments of a pair, from post_processor in tokenizer.json. */
import { z } from 'zod'

export interface PairTemplate {
  /** Ids put before the first segment, between the two, and after the second. */
  readonly before: Int32Array
  readonly between: Int32Array
  readonly after: Int32Array
  /** Type ids of the five parts; they never fall from 1 to 0. */
  readonly typeIds: {
    readonly before: number
    readonly first: number
    readonly between: number
    readonly second: number
    readonly after: number
  }
}

const specialToken = z.tuple([z.string(), z.number().int().nonnegative()])
const sequencePiece = z.object({ Sequence: z.object({ id: z.enum(['A', 'B']), type_id: z.number() }) })
const specialPiece = z.object({ SpecialToken: z.object({ id: z.string(), type_id: z.number() }) })

const processor = z.discriminatedUnion('type', [
  z.object({ type: z.literal('BertProcessing'), sep: specialToken, cls: specialToken }),
  z.object({ type: z.literal('RobertaProcessing'), sep: specialToken, cls: specialToken }),
  z.object({
    type: z.literal('TemplateProcessing'),
    pair: z.array(z.union([sequencePiece, specialPiece])),
    special_tokens: z.record(z.string(), z.object({ ids: z.array(z.number().int().nonnegative()) })),
  }),
  z.object({ type: z.literal('ByteLevel') }),
])
export const postProcessorSchema = z
  .union([processor, z.object({ type: z.literal('Sequence'), processors: z.array(processor) })])
  .nullish()

type Processor = z.infer<typeof processor>

/** Throws an Error whose message names what a pair encoder cannot build. */
export function pairTemplate(config: z.infer<typeof postProcessorSchema>): PairTemplate {
  const processors: Processor[] = config == null ? [] : config.type === 'Sequence' ? config.processors : [config]
  const templates = processors.filter((part) => part.type !== 'ByteLevel')
  const [template] = templates
  if (templates.length > 1) throw new Error('post_processor has more than one template')
  if (template === undefined) {
    // Without one the reference adds no special tokens and gives the second segment type 1.
    return build([], [], [], { before: 0, first: 0, between: 0, second: 1, after: 1 })
  }
  if (template.type === 'TemplateProcessing') return fromPieces(template)
  const cls = template.cls[1]
  const sep = template.sep[1]
  return template.type === 'BertProcessing'
    ? build([cls], [sep], [sep], { before: 0, first: 0, between: 0, second: 1, after: 1 })
    : build([cls], [sep, sep], [sep], { before: 0, first: 0, between: 0, second: 0, after: 0 })
}

function build(before: number[], between: number[], after: number[], typeIds: PairTemplate['typeIds']): PairTemplate {
  return { before: Int32Array.from(before), between: Int32Array.from(between), after: Int32Array.from(after), typeIds }
}

function fromPieces(template: Extract<Processor, { type: 'TemplateProcessing' }>): PairTemplate {
  const ids: [number[], number[], number[]] = [[], [], []]
  const types: (number | undefined)[] = [undefined, undefined, undefined, undefined, undefined]
  let part: 0 | 1 | 2 = 0
  for (const piece of template.pair) {
    let slot: number
    let type: number
    if ('Sequence' in piece) {
      if (piece.Sequence.id !== 'AB'[part]) throw new Error('post_processor.pair is not one A followed by one B')
      slot = part * 2 + 1
      type = piece.Sequence.type_id
      part = part === 0 ? 1 : 2
    } else {
      const special = template.special_tokens[piece.SpecialToken.id]
      if (special === undefined) throw new Error(`post_processor has no ids for ${piece.SpecialToken.id}`)
      ids[part].push(...special.ids)
      slot = part * 2
      type = piece.SpecialToken.type_id
    }
    if ((types[slot] ?? type) !== type) throw new Error('post_processor.pair mixes type ids in one part')
    types[slot] = type
  }
  if (part !== 2) throw new Error('post_processor.pair lacks a segment')
  // A part without tokens takes the type of the one before it.
  let last = 0
  const filled = types.map((type) => {
    const value = type ?? last
    if (value < last || value > 1) throw new Error('post_processor.pair has type ids other than 0s followed by 1s')
    last = value
    return value
  })
  const [before = 0, first = 0, between = 0, second = 0, after = 0] = filled
  return build(...ids, { before, first, between, second, after })
}
