/**
 * Everything that sentence-transformers and transformers read beside a model, in many variants, against the scores of their
 * own CrossEncoder on the same folder (test/golden/models/variants.py).
 */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, it, test } from 'vitest'
import { resolveOptions } from '../../../shared/options.js'
import { openModel } from '../../../worker/model/model.js'
import { ListScorer } from '../../../worker/offline/list-scorer.js'

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
