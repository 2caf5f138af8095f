/** Opening models from folders: what is read of them, and what is refused. */
import { createHash } from 'node:crypto'
import { readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type OpenModelOptions, openModel } from '../../../worker/model/model.js'
import { copyOf, temporaryFolder, tinyModel } from '../../fixtures/models/tiny-models.js'

const options = async (more: Partial<OpenModelOptions> = {}): Promise<OpenModelOptions> => {
  return { dtype: 'auto', device: 'cpu', cacheDir: await temporaryFolder(), allowHub: false, ...more }
}

/** Changes a JSON file of a copied model. */
async function edit(folder: string, name: string, change: (value: Record<string, unknown>) => void): Promise<void> {
  const value = JSON.parse(await readFile(join(folder, name), 'utf8'))
  change(value)
  await writeFile(join(folder, name), JSON.stringify(value))
}

afterEach(() => vi.restoreAllMocks())

describe('what is read of a folder', () => {
  test('a head with one logit, token types, BERT', async () => {
    const model = await openModel(tinyModel('one-logit'), await options())
    expect(model).toMatchObject({
      name: tinyModel('one-logit'),
      dtype: 'fp32',
      modelPath: join(tinyModel('one-logit'), 'onnx', 'model.onnx'),
      kind: 'cross-encoder',
      maxTokens: 64,
      usesTokenTypes: true,
      logits: 1,
      activation: 'sigmoid',
      padId: 0,
      batchInvariant: true,
      exits: [],
    })
    expect(Object.isFrozen(model)).toBe(true)
    expect(structuredClone(model)).toEqual(model)
  })

  test('a head with two logits has no activation, as in CrossEncoder', async () => {
    expect(await openModel(tinyModel('two-logit'), await options())).toMatchObject({
      logits: 2,
      activation: 'identity',
    })
  })

  test('a graph without token types, and an activation that config.json names', async () => {
    expect(await openModel(tinyModel('no-types'), await options())).toMatchObject({
      usesTokenTypes: false,
      activation: 'identity',
    })
  })

  test('RoBERTa loses the positions below its padding id', async () => {
    expect(await openModel(tinyModel('roberta'), await options())).toMatchObject({
      maxTokens: 64,
      padId: 1,
      usesTokenTypes: false,
    })
  })

  test.each([
    [{ sentence_transformers: { activation_fn: 'torch.nn.modules.activation.Sigmoid' } }, 'sigmoid'],
    [{ sbert_ce_default_activation_function: 'torch.nn.modules.linear.Identity' }, 'identity'],
    [{ sbert_ce_default_activation_function: 'somebody.elses.Function' }, 'sigmoid'],
  ])('activation of %j: %s', async (config, activation) => {
    const folder = await copyOf('one-logit')
    await edit(folder, 'config.json', (value) => Object.assign(value, config))
    expect(await openModel(folder, await options())).toMatchObject({ activation })
  })

  test('the tokeniser can lower the number of tokens', async () => {
    const folder = await copyOf('one-logit')
    await edit(folder, 'tokenizer_config.json', (value) => Object.assign(value, { model_max_length: 48 }))
    expect(await openModel(folder, await options())).toMatchObject({ maxTokens: 48 })
  })
})

describe('number formats', () => {
  test('int8 by name, known to depend on its batch', async () => {
    const model = await openModel(tinyModel('one-logit'), await options({ dtype: 'int8' }))
    expect(model).toMatchObject({ dtype: 'int8', batchInvariant: false })
    expect(model.modelPath).toMatch(/model_quantized\.onnx$/)
  })

  test('auto is fp16 on a GPU', async () => {
    expect(await openModel(tinyModel('one-logit'), await options({ device: 'cuda' }))).toMatchObject({ dtype: 'fp16' })
    expect(await openModel(tinyModel('roberta'), await options({ device: 'cuda' }))).toMatchObject({ dtype: 'fp32' })
  })

  test('auto is int8 on a CPU only where rankmill.json calls it batch-invariant', async () => {
    const folder = await copyOf('one-logit')
    const manifest = {
      name: 'tiny',
      dtypes: { fp32: 'onnx/model.onnx', int8: 'onnx/model_quantized.onnx' },
      max_tokens: 32,
    }
    await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
    expect(await openModel(folder, await options())).toMatchObject({ dtype: 'fp32', maxTokens: 32 })
    await writeFile(join(folder, 'rankmill.json'), JSON.stringify({ ...manifest, batch_invariant: { int8: true } }))
    expect(await openModel(folder, await options())).toMatchObject({ dtype: 'int8', batchInvariant: true })
  })

  test('int8 and int4 as `models quantize` writes them are known to be batch-invariant', async () => {
    for (const dtype of ['int8', 'int4'] as const) {
      const model = await openModel(tinyModel('quantized'), await options({ dtype }))
      expect(model).toMatchObject({ dtype, batchInvariant: true })
    }
  })

  test('auto never takes int4 where there is another', async () => {
    const folder = await copyOf('quantized')
    expect((await openModel(folder, await options())).dtype).not.toBe('int4')
    for (const dtype of ['int8', 'fp16']) await rm(join(folder, `onnx/model_${dtype}.onnx`))
    expect(await openModel(folder, await options())).toMatchObject({ dtype: 'int4' })
  })

  test('one that is not there is refused with those that are', async () => {
    await expect(openModel(tinyModel('roberta'), await options({ dtype: 'fp16' }))).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/has no fp16 file, only fp32/),
    })
  })
})

describe('what the files hold', () => {
  test('fields that say "none" in the ways of Python', async () => {
    const folder = await copyOf('one-logit')
    const config = await readFile(join(folder, 'config.json'), 'utf8')
    const none = '"pad_token_id": -1, "num_labels": null, "rope_scaling": NaN, "sentence_transformers": null'
    await writeFile(join(folder, 'config.json'), config.replace(/"pad_token_id": 0/, none))
    expect(await openModel(folder, await options())).toMatchObject({ padId: 0, maxTokens: 64 })
  })

  test('what a graph asks for beyond the usual', async () => {
    expect(await openModel(tinyModel('asking'), await options())).toMatchObject({
      output: 'score',
      narrowInputs: ['input_ids', 'attention_mask'],
      firstPosition: 2,
      logits: 1,
    })
  })

  test('is what rankmill.json says it is', async () => {
    const folder = await copyOf('one-logit')
    const sha256 = { 'onnx/model.onnx': createHash('sha256').update('another').digest('hex') }
    const manifest = { name: 'tiny', dtypes: { fp32: 'onnx/model.onnx' } }
    await writeFile(join(folder, 'rankmill.json'), JSON.stringify({ ...manifest, sha256 }))
    await expect(openModel(folder, await options())).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(/model\.onnx: not the file that rankmill\.json describes/),
    })
  })
})

describe('fingerprint', () => {
  test('is the same for the same content, wherever it lies', async () => {
    const [here, there] = await Promise.all([
      openModel(tinyModel('one-logit'), await options()),
      openModel(await copyOf('one-logit'), await options()),
    ])
    expect(there.fingerprint).toBe(here.fingerprint)
    expect(here.fingerprint).toMatch(/^[0-9a-f]{32}$/)
  })

  test.each(['config.json', 'tokenizer.json', 'tokenizer_config.json'])('changes with %s', async (name) => {
    const folder = await copyOf('one-logit')
    const before = await openModel(folder, await options())
    await edit(folder, name, (value) => Object.assign(value, { comment: 'changed' }))
    expect((await openModel(folder, await options())).fingerprint).not.toBe(before.fingerprint)
  })

  test('changes with weights beside the graph', async () => {
    const folder = await copyOf('no-types')
    const before = await openModel(folder, await options())
    const bytes = await readFile(join(folder, 'onnx', 'model.onnx_data'))
    bytes[1000] = (bytes[1000] ?? 0) ^ 1
    await writeFile(join(folder, 'onnx', 'model.onnx_data'), bytes)
    expect((await openModel(folder, await options())).fingerprint).not.toBe(before.fingerprint)
  })

  test('changes with the format and with the weights', async () => {
    const folder = await copyOf('one-logit')
    const fp32 = await openModel(folder, await options())
    expect((await openModel(folder, await options({ dtype: 'fp16' }))).fingerprint).not.toBe(fp32.fingerprint)
    const bytes = await readFile(fp32.modelPath)
    // In the middle of the file there are only weights.
    bytes[50_000] = (bytes[50_000] ?? 0) ^ 1
    await writeFile(fp32.modelPath, bytes)
    expect((await openModel(folder, await options())).fingerprint).not.toBe(fp32.fingerprint)
  })
})

describe('what is refused', () => {
  const refused = async (folder: string, message: RegExp) => {
    await expect(openModel(folder, await options())).rejects.toMatchObject({
      code: 'invalid_model',
      message: expect.stringMatching(message),
    })
  }

  test.each(['config.json', 'tokenizer.json'])('no %s', async (name) => {
    const folder = await copyOf('one-logit')
    await rm(join(folder, name))
    await refused(folder, new RegExp(`${name}: the file is missing`))
  })

  test.each(['config.json', 'tokenizer.json', 'tokenizer_config.json'])('half of %s', async (name) => {
    const folder = await copyOf('one-logit')
    await truncate(join(folder, name), 40)
    await refused(folder, new RegExp(`${name}: the file is damaged`))
  })

  test('no ONNX file', async () => {
    const folder = await copyOf('roberta')
    await rm(join(folder, 'onnx'), { recursive: true })
    await refused(folder, /there is no ONNX file in it/)
  })

  test.each([0, 1, 100, 20_000, 90_000])('an ONNX file cut off after %d bytes', async (bytes) => {
    const folder = await copyOf('roberta')
    await truncate(join(folder, 'onnx', 'model.onnx'), bytes)
    await refused(folder, /model\.onnx: .*(cut off|empty|not an ONNX model)/)
  })

  test('weights beside the graph that are missing', async () => {
    const folder = await copyOf('no-types')
    await rm(join(folder, 'onnx', 'model.onnx_data'))
    await refused(folder, /the file "model\.onnx_data" that holds its weights is missing/)
  })

  test('a file that is something else', async () => {
    const folder = await copyOf('roberta')
    await writeFile(
      join(folder, 'onnx', 'model.onnx'),
      'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
    )
    await refused(folder, /model\.onnx: .*(not an ONNX model|cut off)/)
  })

  test('a head that config.json does not describe', async () => {
    const folder = await copyOf('one-logit')
    await edit(folder, 'config.json', (value) => Object.assign(value, { id2label: { 0: 'a', 1: 'b', 2: 'c' } }))
    await refused(folder, /the head has 1 outputs, config.json says 3 labels/)
  })

  test('a head of several labels where nobody says which one counts, with the labels', async () => {
    const folder = await copyOf('three-label')
    await refused(folder, /3 outputs \(0 contradiction, 1 entailment, 2 neutral\); .*--label NAME/)
    const manifest = { name: 'nli', dtypes: { fp32: 'onnx/model.onnx' }, label: 3 }
    await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
    await refused(folder, /0 contradiction, 1 entailment, 2 neutral\); there is no label 3/)
  })

  test('a vocabulary that is larger than the embedding', async () => {
    const folder = await copyOf('one-logit')
    await edit(folder, 'tokenizer.json', (value) => {
      const { vocab } = value.model as { vocab: Record<string, number> }
      vocab.foreign = 5000
    })
    await refused(folder, /tokenizer\.json: it has 5001 token ids, the model's embedding \d+ rows/)
  })

  test('a model of another kind', async () => {
    const folder = await copyOf('one-logit')
    await writeFile(
      join(folder, 'rankmill.json'),
      JSON.stringify({ name: 'f', kind: 'bi-encoder', dtypes: { fp32: 'onnx/model.onnx' } }),
    )
    await refused(folder, /a bi-encoder cannot score pairs/)
  })

  test('an activation that is not known', async () => {
    const folder = await copyOf('one-logit')
    await edit(folder, 'config.json', (value) =>
      Object.assign(value, { sentence_transformers: { activation_fn: 'torch.nn.Tanh' } }),
    )
    await refused(folder, /torch\.nn\.Tanh is not known/)
  })
})

describe('references', () => {
  test.each(['no-such-model', './no/such/folder', '/no/such/folder', '', 'a/b/c', '../name', 'org/na me'])(
    '%j is unknown, and no hub is asked',
    async (reference) => {
      const fetch = vi.spyOn(globalThis, 'fetch')
      await expect(openModel(reference, await options({ allowHub: true }))).rejects.toMatchObject({
        code: 'unknown_model',
        details: { param: 'model' },
      })
      expect(fetch).not.toHaveBeenCalled()
    },
  )

  test('a hub id is unknown where hubs are not allowed', async () => {
    const fetch = vi.spyOn(globalThis, 'fetch')
    await expect(openModel('org/name', await options())).rejects.toMatchObject({ code: 'unknown_model' })
    expect(fetch).not.toHaveBeenCalled()
  })
})
