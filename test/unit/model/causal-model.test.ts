import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Model, openModel } from '../../../worker/model/model.js'
import { checkModel } from '../../../worker/model/model-check.js'
import { CAUSAL_FIXTURES, type CausalFixture, causalModel, copyOfCausal } from '../../fixtures/models/causal-models.js'
import { temporaryFolder } from '../../fixtures/models/tiny-models.js'

type Json = Record<string, unknown>

async function opened(folder: string, dtype: 'fp32' | 'fp16' = 'fp32'): Promise<Model> {
  return await openModel(folder, { dtype, device: 'cpu', cacheDir: await temporaryFolder(), allowHub: false })
}

/** A copy with some JSON files changed. */
async function changed(name: CausalFixture, changes: Record<string, Json | null>): Promise<string> {
  const folder = await copyOfCausal(name)
  for (const [file, change] of Object.entries(changes)) {
    const path = join(folder, file)
    if (change === null) await rm(path)
    else {
      const before = JSON.parse(await readFile(path, 'utf8').catch(() => '{}'))
      await writeFile(path, JSON.stringify(Array.isArray(before) ? change : { ...before, ...change }))
    }
  }
  return folder
}

test.each(CAUSAL_FIXTURES)('%s is checked and opened', async (name) => {
  const { findings } = await checkModel(causalModel(name))
  expect(findings.filter(({ ok }) => !ok)).toEqual([])
  const model = await opened(causalModel(name))
  expect(model.activation).toBe('sigmoid')
  expect(model.prompt).toBeDefined()
})

test('the answers of a plain folder are the tokens yes and no', async () => {
  const { causal } = await opened(causalModel('qwen3-plain'))
  const { model } = JSON.parse(await readFile(join(causalModel('qwen3-plain'), 'tokenizer.json'), 'utf8'))
  expect(causal).toMatchObject({ plus: model.vocab.yes, minus: model.vocab.no, asksLogits: false })
  expect(causal?.past).toHaveLength(4)
})

test('without a false token the one logit is the score', async () => {
  const folder = await changed('qwen3', { '1_LogitScore/config.json': { false_token_id: null } })
  expect((await opened(folder)).causal?.minus).toBeNull()
})

test('a template, an answer or a prompt that is another is another model', async () => {
  const before = (await opened(causalModel('qwen3'))).fingerprint
  const folder = await changed('qwen3', { '1_LogitScore/config.json': { true_token_id: 3 } })
  expect((await opened(folder)).fingerprint).not.toBe(before)
  const other = await copyOfCausal('qwen3')
  const template = await readFile(join(other, 'chat_template.jinja'), 'utf8')
  await writeFile(join(other, 'chat_template.jinja'), template.replace('Judge', 'Say'))
  expect((await opened(other)).fingerprint).not.toBe(before)
})

test('the documented prompt is Qwen3-Reranker’s, and of no more tokens than it reads', async () => {
  const folder = await changed('qwen3-plain', {
    'chat_template.jinja': null,
    'config.json': { max_position_embeddings: 40_960 },
  })
  const { maxTokens, prompt } = await opened(folder)
  expect(maxTokens).toBe(8192)
  expect(prompt?.instruction).toMatch(/^Given a web search query/)
})

describe('what cannot be scored as the reference does is refused by name', () => {
  test.each<[what: string, name: CausalFixture, changes: Record<string, Json | null>, message: RegExp]>([
    [
      'a template without the roles of a pair, of a saved model',
      'qwen3',
      { 'chat_template.jinja': null, 'tokenizer_config.json': { chat_template: '{{ messages[0].role }}' } },
      /tokenizer_config\.json: the chat template cannot carry a query and a document \(the query and the document does not/,
    ],
    [
      'the same of another plain model',
      'llama',
      { 'modules.json': null, 'chat_template.jinja': null, 'tokenizer_config.json': { chat_template: 'x' } },
      /the chat template cannot carry a query and a document/,
    ],
    [
      'no template at all, of a plain model',
      'llama',
      { 'modules.json': null, 'chat_template.jinja': null },
      /chat_template\.jinja: nothing says in which words the model is asked/,
    ],
    [
      'a template that asks for what is not known',
      'llama',
      { 'chat_template.jinja': null, 'tokenizer_config.json': { chat_template: '{{ messages | shuffle }}' } },
      /the chat template cannot carry a query and a document \(.*shuffle/,
    ],
    ['a missing template', 'qwen3', { 'chat_template.jinja': null }, /chat_template\.jinja: .* no template is there/],
    [
      'another module',
      'qwen3',
      {
        'modules.json': [
          { path: '', type: 'sentence_transformers.base.modules.transformer.Transformer' },
          { path: '1_Dense', type: 'sentence_transformers.base.modules.dense.Dense' },
        ] as unknown as Json,
      },
      /modules\.json: .*Dense: only a LogitScore/,
    ],
    [
      'another input of the score',
      'qwen3',
      { '1_LogitScore/config.json': { module_input_name: 'scores' } },
      /module_input_name scores: only causal_logits/,
    ],
    [
      'an answer beyond the vocabulary',
      'qwen3',
      { '1_LogitScore/config.json': { true_token_id: 480 } },
      /token 480 is beyond the 480/,
    ],
    [
      'settings of tokenising in the template’s',
      'llama',
      { 'sentence_bert_config.json': { processing_kwargs: { chat_template: { max_length: 9 } } } },
      /processing_kwargs\.chat_template\.max_length: is not known/,
    ],
  ])('%s', async (_, name, changes, message) => {
    const folder = await changed(name, changes)
    await expect(opened(folder)).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(message),
    })
    const { ok, findings } = await checkModel(folder)
    expect(ok).toBe(false)
    expect(findings.some((finding) => !finding.ok && message.test(finding.detail))).toBe(true)
  })

  test('a head of two columns that nobody knows, or that are of other answers', async () => {
    const cut = await readFile(join(causalModel('qwen3-plain'), 'onnx/model_fp16.onnx'))
    const other = await changed('qwen3', { '1_LogitScore/config.json': { true_token_id: 3 } })
    await writeFile(join(other, 'onnx/model.onnx'), cut)
    await expect(opened(other)).rejects.toMatchObject({
      message: expect.stringMatching(/columns are of the tokens .* and 3$/),
    })
    const folder = await changed('qwen3', {})
    await writeFile(
      join(folder, 'onnx/model.onnx'),
      cut.toString('latin1').replace('rankmill.head', 'rankmill.tail'),
      'latin1',
    )
    await expect(opened(folder)).rejects.toMatchObject({
      message: expect.stringMatching(/nothing says which is "yes"/),
    })
    const { true_token_id: yes, false_token_id: no } = JSON.parse(
      await readFile(join(folder, '1_LogitScore/config.json'), 'utf8'),
    )
    const manifest = { name: 'x', dtypes: { fp32: 'onnx/model.onnx' }, head_tokens: [no, yes] }
    await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
    expect((await opened(folder)).causal).toMatchObject({ plus: 1, minus: 0 })
  })
})
