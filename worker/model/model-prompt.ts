/**
 * Whether a model reads its pairs in a chat template, and which. As sentence-transformers 6 decides it
 * (`Transformer.infer_modalities`, `_verify_pair_roles_supported`); for Qwen3-Reranker, whose own template it refuses, the
 * prompt of the model's card.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ChatPrompt, type PromptSettings } from '../tokenize/chat-prompt.js'
import { fault, isFile, readJsonIfThere } from './json-file.js'
import type { ModelConfig } from './model-folder.js'
import type { SavedSettings } from './sentence-transformers.js'

/** Beside tokenizer_config.json, where a template is. */
export const CHAT_TEMPLATE = 'chat_template.jinja'

/** Jinja drops the last line feed. huggingface.co/Qwen/Qwen3-Reranker-0.6B, README.md: `format_instruction`, prefix and suffix, max_length. */
const QWEN3_RERANKER = `<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ messages[0].content }}
<Query>: {{ messages[1].content }}
<Document>: {{ messages[2].content }}<|im_end|>
<|im_start|>assistant
<think>

</think>


`
const QWEN3_INSTRUCTION = 'Given a web search query, retrieve relevant passages that answer the query'
const QWEN3_MAX_TOKENS = 8192

export interface ModelPrompt {
  readonly settings: PromptSettings
  /** Where it is from, for people. */
  readonly origin: string
  /** That its authors read at most. */
  readonly maxTokens?: number
}

const TOKENS = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'] as const
const token = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)])
  .nullish()
  .catch(undefined)
const tokensSchema = z.looseObject(Object.fromEntries(TOKENS.map((name) => [name, token])))
const templateSchema = z.looseObject({
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
})

/** What the classes of transformers 5 name where a folder does not (their `__init__`). */
const CLASS_TOKENS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  GemmaTokenizer: { bos_token: '<bos>', eos_token: '<eos>', unk_token: '<unk>', pad_token: '<pad>' },
  Qwen2Tokenizer: { eos_token: '<|endoftext|>', pad_token: '<|endoftext|>', unk_token: '<|endoftext|>' },
}

/** Model types whose messages are texts whatever their template looks like (KNOWN_MODEL_TYPES_MESSAGE_FORMATS). */
const FLAT_TYPES = new Set(['apertus', 'deepseek_v3', 'gpt_oss', 'seed_oss'])
const STRUCTURED = ['content[0]', '.type', "'type'", '"type"', 'item.type', 'message.content[']

/**
 * @returns undefined where the model reads plain pairs
 * @throws RankmillError `invalid_model`, where the folder has a template that cannot carry a pair
 */
export async function readPrompt(
  folder: string,
  config: ModelConfig,
  saved: SavedSettings,
): Promise<ModelPrompt | undefined> {
  const [file, template] = await readTemplate(folder)
  // What was saved says which it reads; nothing said, there is a template or there is none.
  const isWritten = saved.modules !== undefined && saved.messageFormat !== undefined
  const isCausal = config.architectures?.[0]?.endsWith('ForCausalLM') ?? false
  const isPlainQwen3 = config.model_type === 'qwen3' && saved.modules === undefined
  if (isWritten && saved.messageFormat === null) return undefined
  if (template === undefined) {
    if (isPlainQwen3 && isCausal) return ofModelCard()
    if (isCausal && saved.modules === undefined)
      throw fault(
        join(folder, CHAT_TEMPLATE),
        'nothing says in which words the model is asked: save it with sentence-transformers (a LogitScore, and a template with the roles "query" and "document")',
      )
    if (!isWritten) return undefined
    throw fault(
      join(folder, CHAT_TEMPLATE),
      'sentence_bert_config.json says that pairs are messages, and no template is there',
    )
  }
  const written = await readJsonIfThere(folder, 'tokenizer_config.json', tokensSchema)
  const special = await readJsonIfThere(folder, 'special_tokens_map.json', tokensSchema)
  const variables: Record<string, unknown> = { ...CLASS_TOKENS[String(written?.['tokenizer_class'] ?? '')] }
  for (const name of TOKENS) {
    const said = special?.[name] ?? written?.[name]
    if (said !== undefined && said !== null) variables[name] = said
    // Written down as none, it is none.
    else if (written?.[name] === null) delete variables[name]
  }
  const settings: PromptSettings = {
    template,
    format: saved.messageFormat ?? formatOf(config, template),
    variables: { ...variables, ...saved.templateVariables },
    instruction: saved.defaultPrompt === null ? null : (saved.prompts[saved.defaultPrompt] ?? null),
  }
  const failure = failureOf(settings)
  if (failure === undefined) return { settings, origin: file }
  if (isPlainQwen3) return ofModelCard()
  const what = `the chat template cannot carry a query and a document (${failure})`
  throw fault(join(folder, file), `${what}: it needs a message of the role "query" and one of the role "document"`)
}

function ofModelCard(): ModelPrompt {
  const settings = { template: QWEN3_RERANKER, format: 'flat', variables: {}, instruction: QWEN3_INSTRUCTION } as const
  return { settings, origin: 'the model card of Qwen3-Reranker', maxTokens: QWEN3_MAX_TOKENS }
}

async function readTemplate(folder: string): Promise<[file: string, template: string | undefined]> {
  if (await isFile(join(folder, CHAT_TEMPLATE)))
    return [CHAT_TEMPLATE, await readFile(join(folder, CHAT_TEMPLATE), 'utf8')]
  const file = 'tokenizer_config.json'
  const said = (await readJsonIfThere(folder, file, templateSchema))?.chat_template ?? undefined
  if (!Array.isArray(said)) return [file, said]
  const named = said.find(({ name }) => name === 'default')
  if (named) return [file, named.template]
  throw fault(join(folder, file), `chat_template: none of them is called "default" (${said.map(({ name }) => name)})`)
}

function formatOf({ model_type: type }: ModelConfig, template: string): PromptSettings['format'] {
  if (FLAT_TYPES.has(type)) return 'flat'
  return STRUCTURED.some((sign) => template.includes(sign)) ? 'structured' : 'flat'
}

function failureOf(settings: PromptSettings): string | undefined {
  try {
    return new ChatPrompt(settings).failure()
  } catch (cause) {
    return cause instanceof Error ? cause.message : String(cause)
  }
}
