/**
 * Everything that sentence-transformers and transformers read beside a model, in many variants, against the scores of their
 * own CrossEncoder on the same folder (test/golden/models/variants.py).
 */
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, it, test } from 'vitest'
import { resolveOptions } from '../../../shared/options.js'
import { openModel } from '../../../worker/model/model.js'
import { ListScorer } from '../../../worker/offline/list-scorer.js'
import { loadTokenizer } from '../../../worker/tokenize/tokenizer.js'

type Changes = Record<string, Record<string, unknown> | null>

const GOLDEN = resolve('test/golden/models')
const { query, documents, cases } = JSON.parse(
  // Python writes infinity so.
  (await readFile(join(GOLDEN, 'variants.json'), 'utf8')).replace(/: (?:Infinity|NaN)\b/g, ': null'),
) as { query: string; documents: string[]; cases: { name: string; changes: Changes; scores: number[] }[] }

const place = await mkdtemp(join(tmpdir(), 'rankmill-variants-'))
afterAll(() => rm(place, { recursive: true }))
let count = 0

async function variant(changes: Changes): Promise<string> {
  const folder = join(place, String(count++))
  await cp(join(GOLDEN, 'variants'), folder, { recursive: true })
  for (const [name, fields] of Object.entries(changes)) {
    const path = join(folder, name)
    if (fields === null) {
      await rm(path)
      continue
    }
    const text = await readFile(path, 'utf8').catch(() => '{}')
    const content = Object.entries({ ...JSON.parse(text), ...fields }).filter(([, value]) => value !== 'GONE')
    await writeFile(path, JSON.stringify(Object.fromEntries(content)))
  }
  return folder
}

const options = resolveOptions({ threads: 1, calibrate: false, cacheDir: join(place, 'cache') }, {})
const opening = { dtype: 'auto', device: 'cpu', cacheDir: join(place, 'cache'), allowHub: false } as const

async function scoresOf(folder: string): Promise<readonly number[]> {
  const scorer = await ListScorer.open(folder, options, new AbortController().signal)
  try {
    return (await scorer.score(query, documents)).scores
  } finally {
    await scorer.close()
  }
}

it.each(cases)('$name', async ({ changes, scores }) => {
  const got = await scoresOf(await variant(changes))
  expect(got).toHaveLength(scores.length)
  for (const [i, score] of scores.entries()) expect(Math.abs((got[i] ?? Number.NaN) - score)).toBeLessThan(1e-4)
})

test('every file that is read enters the fingerprint', async () => {
  const of = async (changes: Changes) => (await openModel(await variant(changes), opening)).fingerprint
  const names = [
    'config_sentence_transformers.json',
    'sentence_bert_config.json',
    'special_tokens_map.json',
    'tokenizer_config.json',
    'tokenizer.json',
    'config.json',
  ]
  const all = [await of({}), await of({ 'modules.json': null })]
  for (const name of names) all.push(await of({ [name]: { comment: 'changed' } }))
  expect(new Set(all).size).toBe(names.length + 2)
})

test('modules behind a bare encoder are its head, where the graph is as wide as the last of them', async () => {
  const module = (kind: string, path = '') => ({ path, type: `sentence_transformers.base.modules.${kind}` })
  const folder = await variant({
    'sentence_bert_config.json': { transformer_task: 'feature-extraction' },
    'config_sentence_transformers.json': { activation_fn: null },
    'config.json': { architectures: ['BertModel'], id2label: 'GONE', label2id: 'GONE' },
  })
  const dense = async (fields: object) => {
    await mkdir(join(folder, '2_Dense'), { recursive: true })
    await writeFile(join(folder, '2_Dense/config.json'), JSON.stringify(fields))
  }
  const chain = [
    module('transformer.Transformer'),
    module('pooling.Pooling', '1_Pooling'),
    module('dense.Dense', '2_Dense'),
  ]
  await writeFile(join(folder, 'modules.json'), JSON.stringify(chain))
  await dense({ out_features: 1, module_output_name: 'scores' })
  const model = await openModel(folder, opening)
  expect(model).toMatchObject({ logits: 1, activation: 'sigmoid' })
  await dense({ out_features: 1, module_output_name: 'scores', bias: false })
  expect((await openModel(folder, opening)).fingerprint).not.toBe(model.fingerprint)
  await dense({ out_features: 3, module_output_name: 'scores' })
  await expect(openModel(folder, opening)).rejects.toThrow(/the head has 1 outputs, config\.json says 3 labels/)
  await dense({ out_features: 1 })
  await expect(openModel(folder, opening)).rejects.toThrow(/module_output_name none: a cross-encoder gives "scores"/)
  await writeFile(join(folder, 'modules.json'), JSON.stringify(chain.slice(0, 2)))
  await expect(openModel(folder, opening)).rejects.toThrow(/the last module is Pooling, where .* a Dense/)
})

test('a saved length goes beyond the positions only where those are no rows of a table', async () => {
  const length = { 'sentence_bert_config.json': { max_seq_length: 200 } }
  const of = async (config: Record<string, unknown>) =>
    (await openModel(await variant({ ...length, 'config.json': config }), opening)).maxTokens
  expect(await of({ max_position_embeddings: 130 })).toBe(130)
  expect(await of({ max_position_embeddings: 130, model_type: 'modernbert' })).toBe(200)
  expect(await of({ max_position_embeddings: 130, model_type: 'deberta-v2' })).toBe(130)
  expect(await of({ max_position_embeddings: 130, model_type: 'deberta-v2', position_biased_input: false })).toBe(200)
})

test('the plain class gives token types only where the folder says so, as in transformers 5', async () => {
  const typesOf = async (fields: Record<string, unknown>) =>
    (await loadTokenizer(await variant({ 'tokenizer_config.json': fields }))).template.typeIds.second
  expect(await typesOf({ tokenizer_class: 'BertTokenizer' })).toBe(1)
  for (const name of ['PreTrainedTokenizerFast', 'TokenizersBackend']) {
    expect(await typesOf({ tokenizer_class: name, model_input_names: 'GONE' })).toBe(0)
    expect(await typesOf({ tokenizer_class: name, model_input_names: ['input_ids', 'token_type_ids'] })).toBe(1)
  }
})

describe('what cannot be done as there is refused by name', () => {
  const SAVED = 'config_sentence_transformers.json'
  const TRANSFORMER = 'sentence_bert_config.json'
  const module = (type: string, path = '') => ({ path, type: `sentence_transformers.base.modules.${type}` })
  it.each<[string, Changes | object[], RegExp]>([
    [
      'an activation',
      { [SAVED]: { activation_fn: 'torch.nn.modules.activation.Tanh' } },
      /\.json: .*Tanh is not known/,
    ],
    [
      "code of the folder's own",
      [{ path: '', type: 'custom_st.Transformer' }],
      /modules\.json: custom_st\.Transformer is code of the folder's own/,
    ],
    [
      'a module behind the head',
      [module('transformer.Transformer'), module('dense.Dense', '1')],
      /modules\.json: .*Dense/,
    ],
    ['a folder within', [module('transformer.Transformer', '0_T')], /modules\.json: .*"0_T"/],
    [
      'another task',
      { [TRANSFORMER]: { transformer_task: 'text-generation' } },
      /only a LogitScore is known behind a Transformer that generates/,
    ],
    ['a prompt without text', { [SAVED]: { default_prompt_name: 'rank' } }, /default_prompt_name: .*"rank"/],
    [
      'another truncation',
      { [TRANSFORMER]: { processing_kwargs: { text: { truncation: 'only_second' } } } },
      /processing_kwargs\.text: truncation/,
    ],
    [
      'conversations without a template',
      { [TRANSFORMER]: { modality_config: { text: {}, message: {} } } },
      /pairs are messages/,
    ],
    [
      'a template that carries no pair, where nothing says that texts are plain',
      { 'modules.json': null, 'tokenizer_config.json': { chat_template: 'hello' } },
      /the chat template cannot carry a query and a document/,
    ],
    ['lengths of a task', { [TRANSFORMER]: { query_length: 8 } }, /query_length/],
  ])('%s', async (_name, changes, message) => {
    const folder = await variant(Array.isArray(changes) ? {} : changes)
    if (Array.isArray(changes)) await writeFile(join(folder, 'modules.json'), JSON.stringify(changes))
    await expect(openModel(folder, opening)).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(message),
    })
  })
})
