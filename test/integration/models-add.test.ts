/** `rankmill models add`, as a user runs it, with a hub on this machine. What needs Python's torch is skipped without it. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openModel } from '../../worker/model/model.js'
import { causalModel } from '../fixtures/models/causal-models.js'
import { copyOf, temporaryFolder, tinyModel } from '../fixtures/models/tiny-models.js'
import { runCommand, type Said } from './command.js'
import { COMMIT, HubServer } from './hub-server.js'

const PYTHON = process.env.RANKMILL_PYTHON || 'python3'
const withTorch = describe.skipIf(!hasTorch(PYTHON))

function hasTorch(python: string): boolean {
  const check = "import importlib.metadata as m; [m.version(n) for n in ('torch', 'sentence-transformers', 'onnx')]"
  try {
    execFileSync(python, ['-c', check], { stdio: 'pipe' })
    return true
  } catch {
    return false
  }
}

let cwd: string
let hub: HubServer

beforeEach(async () => {
  cwd = await temporaryFolder()
  // three-label has both, a graph and weights.
  hub = await HubServer.start({
    'tiny/reranker': tinyModel('one-logit'),
    'tiny/nli': tinyModel('three-label'),
    'tiny/weights': tinyModel('weights'),
    'tiny/embedder': tinyModel('bi-encoder'),
    'tiny/causal': causalModel('qwen3'),
    'tiny/causal-weights': causalModel('weights'),
  })
})

afterEach(async () => {
  await hub.close()
})

async function models(...args: string[]): Promise<Said> {
  return await runCommand(['models', ...args], cwd, {
    HF_ENDPOINT: hub.url,
    RANKMILL_CALIBRATE: 'false',
    RANKMILL_LOG_LEVEL: 'error',
  })
}

const CACHE = '.rankmill/cache'

function open(reference: string, folder = join(cwd, CACHE)) {
  return openModel(reference, { dtype: 'auto', device: 'cpu', cacheDir: folder, allowHub: true })
}

const downloads = () =>
  hub.asked.filter(({ url }) => url.startsWith('/elsewhere')).map(({ url }) => url.split('/').at(-1))

test('a graph of a hub: downloaded, checked, measured, served by its id, and offline from then on', async () => {
  const said = await models('add', 'tiny/reranker', '--no-reference', '--json')
  expect(said).toMatchObject({ code: 0 })
  expect(said.stderr).toMatch(/`rankmill worker --model tiny\/reranker` serves it/)
  expect(JSON.parse(said.stdout)).toMatchObject({
    name: 'tiny/reranker',
    added: { from: 'tiny/reranker', version: COMMIT, measured: { fp32: { pairsPerSecond: expect.any(Number) } } },
  })
  expect(downloads()).toEqual(['model.onnx'])
  await hub.close()
  const model = await open('tiny/reranker')
  expect(model).toMatchObject({ name: 'tiny/reranker', dtype: 'fp32', activation: 'sigmoid' })
  const again = await models('add', 'tiny/reranker', '--no-reference')
  expect(again.stderr).toMatch(/is not reached.*; going on with what it said before/)
  expect(again.stderr).toMatch(/tiny\/reranker is here already/)
  expect(again.code).toBe(0)
}, 60_000)

test('a connection that breaks is taken up where it broke, and what is here is not fetched again', async () => {
  hub.faults.cutAfter = 1000
  expect((await models('add', 'tiny/reranker', '--no-reference')).code).toBe(0)
  const elsewhere = hub.asked.filter(({ url }) => url.startsWith('/elsewhere'))
  expect(elsewhere.map(({ range }) => range)).toEqual([undefined, 'bytes=1000-'])
  await rm(join(cwd, CACHE, 'hub'), { recursive: true })
  const before = hub.asked.length
  expect((await models('add', 'tiny/reranker', '--no-reference')).code).toBe(0)
  // Files of a commit do not change: nothing but the revision is asked for.
  expect(hub.asked.slice(before).map(({ url }) => url)).toEqual([expect.stringMatching(/^\/api\/models/)])
}, 60_000)

test('one label of several: named, or refused with all of them before anything large is fetched', async () => {
  const unnamed = await models('add', 'tiny/nli', '--no-reference')
  expect(unnamed).toMatchObject({ code: 2 })
  expect(unnamed.stderr).toMatch(/invalid_model: .*0 contradiction, 1 entailment, 2 neutral.*--label NAME/)
  const wrong = await models('add', 'tiny/nli', '--no-reference', '--label', 'yes')
  expect(wrong.stderr).toMatch(/invalid_request: --label: the model has no label "yes" \(it has 0 contradiction/)
  expect(downloads()).toEqual([])
  expect((await models('add', 'tiny/nli', '--no-reference', '--label', 'Entailment')).code).toBe(0)
  const entails = await open('tiny/nli')
  expect(entails).toMatchObject({ logits: 3, label: 1 })
  const other = await models('add', 'tiny/nli', '--no-reference', '--label', '2')
  expect(other.stderr).toMatch(/output_exists: tiny\/nli is here already.*--force replaces it/)
  expect((await models('add', 'tiny/nli', '--no-reference', '--label', '2', '--force')).code).toBe(0)
  const neutral = await open('tiny/nli')
  expect(neutral.label).toBe(2)
  expect(neutral.fingerprint).not.toBe(entails.fingerprint)
}, 120_000)

test('what cannot be served is refused by name, and nothing is put in place', async () => {
  const bi = await models('add', 'tiny/embedder')
  expect(bi).toMatchObject({ code: 2 })
  expect(bi.stderr).toMatch(/invalid_model: .*architectures: BertModel has no head that scores pairs/)
  const absent = await models('add', 'tiny/nothing')
  expect(absent.stderr).toMatch(/unknown_model: model "tiny\/nothing" \(revision main\): http.* does not have it/)
  const neither = await models('add', './nowhere at all')
  expect(neither.stderr).toMatch(/unknown_model: .*neither a folder nor an id of a hub/)
  const folder = await copyOf('weights')
  await rm(join(folder, 'model.safetensors'))
  const empty = await models('add', folder)
  expect(empty.stderr).toMatch(/there are neither weights \(model\.safetensors\) nor an fp32 ONNX graph/)
  hub.faults.token = 'hf_secret'
  const denied = await models('add', 'tiny/reranker')
  expect(denied).toMatchObject({ code: 2 })
  expect(denied.stderr).toMatch(/hub_denied: .*answers 401/)
  expect(existsSync(join(cwd, CACHE, 'hub'))).toBe(false)
}, 60_000)

test('check says what add would, of a hub and of weights, and writes nothing', async () => {
  const graph = await models('check', 'tiny/reranker', '--json')
  expect(graph).toMatchObject({ code: 0 })
  expect(graph.stdout).toMatch(/a graph \(onnx\/model\.onnx, 0\.1 MB\): BertForSequenceClassification, 1 label/)
  expect(graph.stderr).toMatch(/`rankmill models add tiny\/reranker` can bring it into the cache/)
  const weights = await models('check', tinyModel('weights'))
  expect(weights).toMatchObject({ code: 0, stdout: expect.stringMatching(/weights, to be exported/) })
  const unnamed = await models('check', 'tiny/nli')
  expect(unnamed).toMatchObject({ code: 1, stdout: expect.stringMatching(/0 contradiction, 1 entailment, 2 neutral/) })
  expect((await models('check', 'tiny/nli', '--label', 'neutral')).stdout).toMatch(/of which neutral counts/)
  expect((await models('check', tinyModel('three-label'))).code).toBe(1)
  expect((await models('check', tinyModel('three-label'), '--label', 'neutral')).code).toBe(0)
  expect((await models('check', 'tiny/embedder')).stdout).toMatch(/BertModel has no head that scores pairs/)
  expect(downloads()).toEqual([])
  expect(await readdir(cwd)).toEqual([])
}, 60_000)

test('a causal reranker of a hub: its modules and its template come along', async () => {
  expect((await models('check', 'tiny/causal')).stdout).toMatch(/a graph \(onnx\/model\.onnx, .*Qwen3ForCausalLM/)
  const weights = await models('check', 'tiny/causal-weights')
  expect(weights).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/weights, to be exported .*Qwen3ForCausalLM/),
  })
  expect(await models('add', 'tiny/causal', '--no-reference')).toMatchObject({ code: 0 })
  const model = await open('tiny/causal')
  expect(model).toMatchObject({ name: 'tiny/causal', prompt: { format: 'flat' } })
  expect(model.causal).toEqual((await open(causalModel('qwen3'))).causal)
  expect((await models('add', 'tiny/causal', '--no-reference', '--force')).code).toBe(0)
  const shown = JSON.parse((await models('show', 'tiny/causal')).stdout)
  expect(shown).toMatchObject({ architecture: 'Qwen3ForCausalLM', loads: { dtype: 'fp32', logits: 1 } })
}, 120_000)

test("a network that is code of the folder's own is never exported", async () => {
  const folder = await copyOf('weights')
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
  config.auto_map = { AutoModelForSequenceClassification: 'modeling.OwnForSequenceClassification' }
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  const said = await models('add', folder)
  expect(said).toMatchObject({ code: 2 })
  expect(said.stderr).toMatch(/config\.json: auto_map: the network is code of the folder's own, which is never run/)
}, 60_000)

test('show: what was added of it, what is loaded, and the licence of its card', async () => {
  const folder = await copyOf('one-logit')
  await writeFile(join(folder, 'README.md'), '---\nlanguage: en\nlicense: mit\n---\n# A reranker\n')
  expect((await models('add', folder, '--no-reference', '--name', 'our/one')).code).toBe(0)
  const { stdout } = await models('show', 'our/one')
  expect(JSON.parse(stdout)).toMatchObject({
    source: 'cache',
    licence: 'mit',
    architecture: 'BertForSequenceClassification',
    loads: { dtype: 'fp32', activation: 'sigmoid', logits: 1, batchInvariant: true },
    added: { from: folder, measured: { fp32: {} } },
  })
}, 60_000)

test('a Python that cannot be run is named', async () => {
  const folder = await copyOf('weights')
  const absent = await models('add', folder, '--python', '/no/such/python')
  expect(absent.code).toBe(2)
  expect(absent.stderr).toMatch(/python_unavailable: --python: "\/no\/such\/python" cannot be run \(ENOENT\)/)
})

test.skipIf(hasTorch('python3'))(
  'an environment whose packages cannot be had is told with what pip says, and made again',
  async () => {
    const folder = await copyOf('weights')
    const lacking = { PIP_NO_INDEX: '1', PIP_FIND_LINKS: '', RANKMILL_PYTHON: 'python3' }
    for (let tries = 0; tries < 2; tries++) {
      const said = await runCommand(['models', 'add', folder], cwd, lacking)
      expect(said.code).toBe(2)
      expect(said.stderr).toMatch(
        /python3 lacks .*torch.*: making a virtual environment in \.rankmill\/cache\/python\//,
      )
      expect(said.stderr).toMatch(/python_unavailable: .*No matching distribution found/)
    }
    expect(existsSync(join(cwd, CACHE, 'hub'))).toBe(false)
  },
  120_000,
)

withTorch('with torch', () => {
  test('a folder of safetensors with no graph: exported, compared with the reference, quantised, served', async () => {
    const said = await models('add', tinyModel('weights'), '--dtype', 'int8', '--json', '--name', 'our/reranker')
    expect(said).toMatchObject({ code: 0 })
    const { added } = JSON.parse(said.stdout)
    expect(added).toMatchObject({
      architecture: 'BertForSequenceClassification',
      exported: { opset: 17, inputs: expect.arrayContaining(['input_ids', 'attention_mask']) },
      reference: { pairs: expect.any(Number), tolerance: 1e-4 },
      measured: { fp32: { pairsPerSecond: expect.any(Number) }, int8: { batchInvariant: true } },
    })
    expect(added.reference.greatestDifference).toBeLessThan(1e-4)
    expect(said.stderr).toMatch(/`rankmill worker --model our\/reranker --dtype int8` serves it/)
    expect(await open('our/reranker')).toMatchObject({ dtype: 'fp32' })
    expect((await models('check', join(cwd, CACHE, 'hub/our/reranker'))).code).toBe(0)
    expect(await readdir(join(cwd, CACHE, 'adding'))).toEqual(['lock'])
    const again = await models('add', tinyModel('weights'), '--dtype', 'int8', '--name', 'our/reranker')
    expect(again.stderr).toMatch(/is here already: [\s\S]*int8 is here already/)
  }, 600_000)

  test('a causal reranker that has only weights: exported with its two answers, compared with its model card', async () => {
    const said = await models('add', causalModel('weights'), '--dtype', 'int8', '--json', '--name', 'our/causal')
    expect(said).toMatchObject({ code: 0 })
    const { added } = JSON.parse(said.stdout)
    expect(added).toMatchObject({ architecture: 'Qwen3ForCausalLM', reference: { tolerance: 1e-4 } })
    expect(added.reference.greatestDifference).toBeLessThan(1e-4)
    const { causal, prompt } = await open('our/causal')
    expect(causal).toMatchObject({ plus: 1, minus: 0, past: { length: 4 } })
    expect(prompt?.instruction).toMatch(/^Given a web search query/)
  }, 600_000)

  test('a label of a model that has only weights', async () => {
    const folder = await copyOf('three-label')
    await rm(join(folder, 'onnx'), { recursive: true })
    const said = await models('add', folder, '--label', 'entailment', '--dtype', 'int8', '--name', 'our/nli')
    expect(said).toMatchObject({ code: 0 })
    expect(said.stderr).toMatch(/compared with sentence-transformers .*greatest difference of a logit [0-9]e-[5-9]/)
    expect(await open('our/nli')).toMatchObject({ logits: 3, label: 1, activation: 'identity' })
  }, 600_000)

  test('a graph that scores other than its weights do is not put in place', async () => {
    const folder = join(cwd, 'mixed')
    await cp(tinyModel('one-logit'), folder, { recursive: true })
    await writeFile(join(folder, 'model.safetensors'), await readFile(join(tinyModel('weights'), 'model.safetensors')))
    const other = join(tinyModel('staged'), 'onnx/model.onnx')
    await writeFile(join(folder, 'onnx/model.onnx'), await readFile(other))
    const said = await models('add', folder)
    expect(said.code).toBe(1)
    expect(said.stderr).toMatch(/reference_differs: the pair ".*", ".*": logit -?[\d.]+ instead of -?[\d.]+/)
    expect(existsSync(join(cwd, CACHE, 'hub'))).toBe(false)
  }, 600_000)

  test('weights without the head that the configuration names are refused', async () => {
    const folder = await copyOf('weights')
    const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
    const more = { architectures: ['ElectraForSequenceClassification'], model_type: 'electra' }
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, ...more }))
    const said = await models('add', folder)
    expect(said.stderr).toMatch(/export_failed: .*the weights do not hold all of ElectraForSequenceClassification/)
  }, 600_000)
})
