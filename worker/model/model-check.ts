/** Whether a folder will load, and what to do if not: the work behind `rankmill models check`. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { RankmillError } from '../../shared/errors.js'
import { disableTelemetry } from '../inference/telemetry.js'
import { loadTokenizer } from '../tokenize/tokenizer.js'
import { type Answers, causalHeadOf, readAnswers } from './causal-head.js'
import { throughLinks } from './linked-weights.js'
import { queryPromptOf } from './model.js'
import { checkExits } from './model-exits.js'
import * as files from './model-folder.js'
import { readPrompt } from './model-prompt.js'
import type { OnnxFile } from './onnx-file.js'
import { readSavedHead, withHead } from './saved-head.js'
import { readSavedSettings, type SavedSettings } from './sentence-transformers.js'

export interface Finding {
  readonly ok: boolean
  /** What was looked at: a file, or a relation between two. */
  readonly what: string
  readonly detail: string
  /** What to do; empty if ok. */
  readonly fix: string
}

export interface ModelCheck {
  readonly folder: string
  /** Whether every finding is. */
  readonly ok: boolean
  readonly findings: readonly Finding[]
}

export interface CheckOptions {
  /** The output that is the score, where rankmill.json does not say it (yet). */
  readonly label?: number | undefined
  /** Whether to look at the ONNX files and what belongs to them. */
  readonly graphs?: boolean
}

/** Looks at everything in a model folder, and goes on after each fault. Never throws for what is wrong with the folder. */
export async function checkModel(
  path: string,
  { label: given, graphs = true }: CheckOptions = {},
): Promise<ModelCheck> {
  const folder = resolve(path)
  const findings: Finding[] = []
  const look = async <T>(what: string, fix: string, run: () => Promise<[T, string]>): Promise<T | undefined> => {
    try {
      const [value, detail] = await run()
      findings.push({ ok: true, what, detail, fix: '' })
      return value
    } catch (cause) {
      findings.push({ ok: false, what, detail: RankmillError.from(cause).message, fix })
      return undefined
    }
  }

  const config = await look('config.json', 'Copy config.json from the original model.', async () => {
    const read = await files.readConfig(folder)
    return [read, `${read.model_type || 'no model type'}, ${read.max_position_embeddings ?? 'unknown'} positions`]
  })
  const manifest = await look(
    'rankmill.json',
    'Correct rankmill.json, or remove it: folders without one load too.',
    async () => {
      const read = await files.readManifest(folder)
      return [read, read ? `${read.name}, a ${read.kind}` : 'none (not needed)']
    },
  )
  const facts = await look(
    'tokenizer.json',
    'Save the tokeniser with it: AutoTokenizer.save_pretrained(folder).',
    async () => {
      const read = await files.readTokenizerFacts(folder)
      return [read, `${read.vocabularySize} token ids`]
    },
  )
  const kind = manifest?.kind === 'bi-encoder' ? 'SentenceTransformer' : 'CrossEncoder'
  const saved = await look(
    'sentence-transformers',
    'Save the model again with sentence-transformers, or remove modules.json if it is not of this model.',
    async () => {
      const read = await readSavedSettings(folder, kind)
      const prompt = kind === 'CrossEncoder' ? queryPromptOf(folder, read) : ''
      return [read, read.modules ? inWords(read, prompt) : 'not saved as such (not needed)']
    },
  )
  let chain: number | undefined
  const answers =
    config && facts && saved && kind === 'CrossEncoder'
      ? await look('answers', 'Save the model again with sentence-transformers.', async () => {
          const read = await readAnswers(folder, config, facts, saved)
          chain = await readSavedHead(folder, saved)
          return [read, read ? `tokens ${read.falseId ?? 'none'} (no) and ${read.trueId} (yes)` : 'a head of its own']
        })
      : undefined
  const prompt =
    config && saved && kind === 'CrossEncoder'
      ? await look('prompt', `Put a chat template into it that renders the roles "query" and "document".`, async () => {
          const read = await readPrompt(folder, config, saved)
          return [read, read ? `pairs are read in a chat template (${read.origin})` : 'plain pairs']
        })
      : undefined
  if (facts && !prompt && !answers) {
    await look('special tokens', 'Save the tokeniser again with its post-processor and pad token.', async () => {
      const { template } = await loadTokenizer(folder, kind)
      const count = template.before.length + template.between.length + template.after.length
      if (count === 0)
        throw new RankmillError('invalid_model', `${join(folder, 'tokenizer.json')}: pairs get no special tokens`)
      return [undefined, `${count} around a pair`]
    })
  }
  if (!graphs) return { folder, ok: findings.every(({ ok }) => ok), findings }
  const label = manifest?.label ?? given
  const dtypes = await look(
    'ONNX files',
    '`rankmill models add FOLDER` exports it; so does optimum-cli export onnx --task text-classification.',
    async () => {
      const found = await files.findDtypes(folder, manifest)
      const missing = Object.entries(manifest?.dtypes ?? {}).filter(
        ([dtype]) => found[dtype as files.Dtype] === undefined,
      )
      const names = missing.map(([, name]) => name)
      if (names.length > 0)
        throw new RankmillError('invalid_model', `${folder}: rankmill.json names ${names.join(', ')}, not there`)
      if (Object.keys(found).length === 0)
        throw new RankmillError('invalid_model', `${folder}: there is no ONNX file in it`)
      return [
        found,
        Object.entries(found)
          .map(([dtype, name]) => `${dtype}: ${name}`)
          .join(', '),
      ]
    },
  )
  // One that is missing says nothing against those that are there.
  for (const [dtype, name] of Object.entries(dtypes ?? (await files.findDtypes(folder, manifest)))) {
    const path = join(folder, name)
    const graph = await look(name, 'Copy or export the file again.', async () => {
      const read = await files.readGraph(path)
      const invariant = files.isBatchInvariant(manifest, dtype as files.Dtype, read)
      return [
        read,
        `${dtype}, ${read.nodes.length} nodes, ${invariant ? 'batch-invariant' : 'scores depend on the batch'}`,
      ]
    })
    if (graph)
      await checkGraph({
        look,
        folder,
        path,
        name,
        graph,
        config: config && withHead(config, chain),
        facts,
        manifest,
        saved,
        label,
        answers,
      })
  }
  if (Object.keys(manifest?.sha256 ?? {}).length > 0) {
    await look('contents', 'Copy all ONNX files again, of one version: they share weights.', async () => {
      const digests = Object.entries(manifest?.sha256 ?? {})
      for (const [name, digest] of digests) {
        if ((await digestOf(join(folder, name))) !== digest)
          throw new RankmillError('invalid_model', `${join(folder, name)}: not the file that rankmill.json describes`)
      }
      return [undefined, `${digests.length} ONNX files are as rankmill.json describes them`]
    })
  }
  if (manifest && manifest.exits.length > 0) {
    await look('exits', 'Export the stages again, all of one run.', async () => [
      undefined,
      await checkExits(folder, manifest.exits),
    ])
  }
  return { folder, ok: findings.every(({ ok }) => ok), findings }
}

interface GraphCheck {
  look: <T>(what: string, fix: string, run: () => Promise<[T, string]>) => Promise<T | undefined>
  folder: string
  path: string
  name: string
  graph: OnnxFile
  config: files.ModelConfig | undefined
  facts: files.TokenizerFacts | undefined
  manifest: files.Manifest | undefined
  saved: SavedSettings | undefined
  label: number | undefined
  answers: Answers | undefined
}

async function checkGraph({
  look,
  folder,
  path,
  name,
  graph,
  config,
  facts,
  manifest,
  saved,
  label: given,
  answers,
}: GraphCheck): Promise<void> {
  if (config && (manifest?.kind ?? 'cross-encoder') === 'cross-encoder') {
    const fix = answers
      ? 'Export with --task text-generation-with-past.'
      : 'Export with --task text-classification; of more than two labels, name one: `rankmill models add … --label`.'
    await look(`head of ${name}`, fix, async () => {
      if (answers) {
        const { causal } = causalHeadOf(path, graph, answers, manifest)
        const past = causal.past.length > 0 ? 'what is read before is kept' : 'without past keys and values'
        return [
          undefined,
          `columns ${causal.minus ?? 'none'} (no) and ${causal.plus} (yes), ${past}, ${files.activationOf(folder, config, 1, saved)}`,
        ]
      }
      const { logits, label, usesTokenTypes } = files.headOf(path, graph, config, given)
      const activation = files.activationOf(folder, config, logits, saved)
      const counted =
        label === undefined ? '' : `, of which ${label} (${files.labelsOf(config)?.[label] ?? '?'}) counts`
      return [
        undefined,
        `${logits} logit(s)${counted}, ${usesTokenTypes ? 'with' : 'without'} token types, ${activation}`,
      ]
    })
  }
  if (facts) {
    await look(`vocabulary of ${name}`, 'Take the tokeniser and the ONNX file from the same model.', async () => {
      const rows = files.embeddingRows(graph)
      files.checkVocabulary(folder, facts, rows)
      return [undefined, `${facts.vocabularySize} token ids, ${rows ?? 'unknown number of'} embedding rows`]
    })
  }
  await look(`trial run of ${name}`, 'Copy or export the file again.', async () => {
    return [undefined, await trialRun(path, graph, (facts?.vocabularySize ?? 2) - 1)]
  })
}

function inWords({ maxTokens, lowercase, activation }: SavedSettings, prompt: string): string {
  const said = [
    maxTokens === undefined ? '' : `${maxTokens} tokens at most`,
    lowercase ? 'texts in lower case' : '',
    activation === null ? '' : `activation ${activation}`,
    prompt === '' ? '' : `${JSON.stringify(prompt)} before each query`,
  ]
  return said.filter((words) => words !== '').join(', ') || 'nothing beyond the other files'
}

async function digestOf(path: string): Promise<string | null> {
  const hash = createHash('sha256')
  // In pieces: weights may be larger than what fits into one buffer.
  const read = await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash).catch(() => null)
  return read === null ? null : hash.digest('hex')
}

/** TensorProto.DataType */
const INT32 = 6
const FLOAT16 = 10

/** Loads the file and runs it once over two tokens, one the highest that the tokeniser can give. */
async function trialRun(path: string, graph: OnnxFile, highestId: number): Promise<string> {
  // Loaded here, because `models ls` has no need of it.
  disableTelemetry()
  const { env, InferenceSession, Tensor } = await import('onnxruntime-node')
  env.logLevel = 'fatal'
  try {
    const beside = graph.externalFiles.map((name) => join(dirname(path), name))
    const session = await throughLinks(path, beside, (readable) => {
      return InferenceSession.create(readable, { logSeverityLevel: 4 })
    })
    const values = (name: string) =>
      name === 'input_ids' ? [0n, BigInt(highestId)] : name === 'attention_mask' ? [1n, 1n] : [0n, 0n]
    const feeds = graph.inputs.map(({ name, type, shape }) => {
      if (name.startsWith('past_key_values.')) {
        const dims = [1, shape[1] ?? 0, 0, shape[3] ?? 0]
        return [
          name,
          type === FLOAT16
            ? new Tensor('float16', new Uint16Array(), dims)
            : new Tensor('float32', new Float32Array(), dims),
        ]
      }
      if (name === 'num_logits_to_keep')
        return [name, new Tensor('int64', BigInt64Array.of(1n), shape.length === 0 ? [] : [1])]
      const [first = 0n, second = 0n] = values(name)
      const narrow = () => new Tensor('int32', Int32Array.of(Number(first), Number(second)), [1, 2])
      return [name, type === INT32 ? narrow() : new Tensor('int64', BigInt64Array.of(first, second), [1, 2])]
    })
    const outputs = await session.run(Object.fromEntries(feeds))
    const shapes = Object.entries(outputs).map(([name, { dims }]) => `${name} [${dims.join(', ')}]`)
    await session.release()
    return shapes.join(', ')
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause)
    throw new RankmillError('invalid_model', `${path}: ${reason}`, {}, { cause })
  }
}
