/**
 * Causal language models that score a pair by what they would say of it: the logit of "yes" less that of "no" at the last
 * token. Which tokens those are, and what a graph of such a model asks for and gives.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { fault } from './json-file.js'
import type { Manifest, ModelConfig, TokenizerFacts } from './model-folder.js'
import type { OnnxFile } from './onnx-file.js'
import { readSavedHead } from './saved-head.js'
import { readModuleConfig, type SavedSettings } from './sentence-transformers.js'

/** The tokens whose logits make the score. */
export interface Answers {
  readonly trueId: number
  /** null: the one logit is the score. */
  readonly falseId: number | null
}

/** Keys or values of one layer, as the graph takes and gives them. */
export interface PastState {
  readonly input: string
  readonly output: string
  /** Heads and width of a head. */
  readonly heads: number
  readonly width: number
  /** TensorProto.DataType. */
  readonly type: number
}

/** Frozen plain data: it is sent to processes. */
export interface CausalHead {
  /** Columns of the logits that make the score: the first is added, the second taken away. */
  readonly plus: number
  readonly minus: number | null
  /** Keys and values of what was read before; empty where the graph takes none. */
  readonly past: readonly PastState[]
  /** The graph is told of how many tokens it shall give logits, and gives those of the last. */
  readonly asksLogits: boolean
}

const logitScoreSchema = z.looseObject({
  true_token_id: z.int().nonnegative(),
  false_token_id: z.int().nonnegative().nullish(),
  module_input_name: z.string().default('causal_logits'),
})

/**
 * After `CrossEncoder._load_default_modules` and `LogitScore` of sentence-transformers.
 *
 * @returns undefined where the model is none of these
 * @throws RankmillError `invalid_model`
 */
export async function readAnswers(
  folder: string,
  config: ModelConfig,
  tokenizer: TokenizerFacts,
  saved: SavedSettings,
): Promise<Answers | undefined> {
  const { modules, task } = saved
  if ((await readSavedHead(folder, saved)) !== undefined) return undefined
  if (!modules) {
    if (!config.architectures?.[0]?.endsWith('ForCausalLM')) return undefined
    const [trueId, falseId] = ['yes', 'no'].map(tokenizer.idOf)
    if (trueId !== undefined && falseId !== undefined) return { trueId, falseId }
    throw fault(
      join(folder, 'tokenizer.json'),
      'it has no token "yes" or no token "no", which a causal reranker answers with',
    )
  }
  const file = join(folder, 'modules.json')
  const [, second, third] = modules
  if (task === 'sequence-classification' && !second) return undefined
  const kinds = modules.map(({ kind }) => kind).join(', ')
  if (task !== 'text-generation' && second)
    throw fault(file, `the module ${second.kind} behind the Transformer is not known of a cross-encoder`)
  if (task !== 'text-generation')
    throw fault(join(folder, 'sentence_bert_config.json'), `transformer_task ${task} is not known of a cross-encoder`)
  if (second?.kind !== 'LogitScore' || third)
    throw fault(file, `the modules ${kinds}: only a LogitScore is known behind a Transformer that generates`)
  const score = await readModuleConfig(folder, second, logitScoreSchema)
  const own = join(folder, second.path, 'config.json')
  if (score.module_input_name !== 'causal_logits')
    throw fault(own, `module_input_name ${score.module_input_name}: only causal_logits is known`)
  const answers = { trueId: score.true_token_id, falseId: score.false_token_id ?? null }
  const highest = Math.max(answers.trueId, answers.falseId ?? 0)
  if (config.vocab_size !== undefined && highest >= config.vocab_size)
    throw fault(own, `the token ${highest} is beyond the ${config.vocab_size} of config.json`)
  return answers
}

const INT32 = 6
const INT64 = 7
const FLOATS = new Set([1, 10])
const TOKEN_INPUTS = new Set(['input_ids', 'attention_mask', 'position_ids'])
const KEPT = 'num_logits_to_keep'
const PAST = /^past_key_values\.(\d+)\.(key|value)$/

export interface CausalGraph {
  readonly causal: CausalHead
  readonly output: string
  readonly usesPositions: boolean
  readonly narrowInputs: readonly string[]
}

/** What a causal model's graph asks for and gives, checked against what the score is made of. */
export function causalHeadOf(
  path: string,
  graph: OnnxFile,
  { trueId, falseId }: Answers,
  manifest: Manifest | undefined,
): CausalGraph {
  const names = graph.inputs.map(({ name }) => name)
  for (const name of ['input_ids', 'attention_mask'])
    if (!names.includes(name)) throw fault(path, `the graph has no input "${name}" (inputs: ${names.join(', ')})`)
  const past: PastState[] = []
  for (const { name, type, shape } of graph.inputs) {
    if (PAST.test(name)) {
      const output = graph.outputs.find((one) => one.name === name.replace('past_key_values', 'present'))
      const [, heads, , width] = shape
      if (!output || shape.length !== 4 || !heads || !width || !FLOATS.has(type))
        throw fault(
          path,
          `the input "${name}" is not [batch, heads, tokens, width] of a known size with an output "present" of its own`,
        )
      past.push({ input: name, output: output.name, heads, width, type })
    } else if (!TOKEN_INPUTS.has(name) && name !== KEPT)
      throw fault(path, `the graph wants an input "${name}" that is not known of a causal model`)
    else if (type !== INT64 && type !== INT32) throw fault(path, `the input "${name}" is neither int64 nor int32`)
  }
  const output = graph.outputs.find(({ name }) => name === 'logits')
  if (!output) throw fault(path, `the graph has no output "logits": export it as text-generation`)
  if (!FLOATS.has(output.type) || output.shape.length !== 3)
    throw fault(
      path,
      `the output "logits" has ${output.shape.length} dimensions, where a causal model gives [batch, tokens, vocabulary]`,
    )
  return {
    causal: {
      ...columnsOf(path, graph, output.shape[2] ?? null, [falseId, trueId], manifest),
      past,
      asksLogits: names.includes(KEPT),
    },
    output: output.name,
    usesPositions: names.includes('position_ids'),
    narrowInputs: graph.inputs.filter(({ type }) => type === INT32).map(({ name }) => name),
  }
}

const headNote = z.tuple([z.int(), z.int()])

/** Of a head that was cut, columns are tokens only if somebody says of which. */
function columnsOf(
  path: string,
  graph: OnnxFile,
  width: number | null,
  [falseId, trueId]: readonly [number | null, number],
  manifest: Manifest | undefined,
): { plus: number; minus: number | null } {
  const note = graph.notes['rankmill.head']
  const said = note === undefined ? manifest?.head_tokens : headNote.safeParse(JSON.parse(note)).data
  if (width === 2) {
    if (!said)
      throw fault(
        path,
        'the head has two columns, and nothing says which is "yes": name their token ids in rankmill.json, head_tokens: [no, yes]',
      )
    const [plus, minus] = [said.indexOf(trueId), falseId === null ? null : said.indexOf(falseId)]
    if (plus < 0 || minus === -1)
      throw fault(
        path,
        `the head's columns are of the tokens ${said.join(' and ')}, the score of ${falseId ?? 'none'} and ${trueId}`,
      )
    return { plus, minus }
  }
  if (width !== null && Math.max(trueId, falseId ?? 0) >= width)
    throw fault(path, `the head has ${width} columns, the score is of the tokens ${falseId ?? 'none'} and ${trueId}`)
  return { plus: trueId, minus: falseId }
}
