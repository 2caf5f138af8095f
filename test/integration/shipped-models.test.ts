/** The models that ship load everywhere, chain their exits, and give any text the same finite score in any company. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } from '@xenova/transformers'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { beforeAll, describe, expect, test } from 'vitest'
import { checkModel } from '../../worker/model/model-check.js'
import { PairEncoder } from '../../worker/tokenize/pair-encoder.js'
import { loadTokenizer, type Tokenizer } from '../../worker/tokenize/tokenizer.js'

type Dtype = 'fp32' | 'fp16' | 'int8'
interface Manifest {
  readonly dtypes: Record<Dtype, string>
  readonly exits?: { layer: number; files: Record<'fp32' | 'int8', string> }[]
}

const MODELS = 'models'
const names = readdirSync(MODELS).filter((name) => name.startsWith('rankmill-'))
const crossEncoders = names.filter((name) => name !== 'rankmill-filter')
const manifestOf = (name: string): Manifest =>
  JSON.parse(readFileSync(join(MODELS, name, 'rankmill.json'), 'utf8')) as Manifest

const QUERY = 'how do I retry a failed job'
const PASSAGES: Record<string, string> = {
  short: 'Failed jobs can be tried again.',
  middling: 'A worker that dies loses its lock, and another worker takes the job after the lock has run out. '.repeat(
    3,
  ),
  off: 'Apples, cherries and strawberries are red.',
  empty: '',
  long: 'word after word of a very long passage '.repeat(2000),
  Greek: 'Ο καφές είναι ζεστός και το τραπέζι είναι μεγάλο.',
  Chinese: '东京今天晴，气温二十度。',
  noise: String.fromCharCode(...Array.from({ length: 700 }, (_, i) => (i * 7919 + 13) % 256)),
  surrogates: '\ud800 lone \udfff 👩‍👩‍👧‍👦 \u0000\u200b',
}

let tokenizer: Tokenizer
beforeAll(async () => {
  tokenizer = await loadTokenizer(join(MODELS, 'rankmill-small'))
  env.allowRemoteModels = false
  env.localModelPath = `${MODELS}/`
})

type Row = { ids: ArrayLike<number>; secondStart: number }
type Feeds = Record<string, Tensor>

function feedsOf(rows: readonly Row[], length = Math.max(...rows.map(({ ids }) => ids.length))): Feeds {
  const make = (value: (row: Row, i: number) => number) =>
    new Tensor(
      'int64',
      BigInt64Array.from({ length: rows.length * length }, (_, at) => {
        const row = rows[Math.floor(at / length)]!
        const i = at % length
        return BigInt(i < row.ids.length ? value(row, i) : 0)
      }),
      [rows.length, length],
    )
  return {
    input_ids: make(({ ids }, i) => ids[i]!),
    attention_mask: make(() => 1),
    token_type_ids: make(({ secondStart }, i) => (i >= secondStart ? 1 : 0)),
  }
}

/** Pairs with the query for cross-encoders, single texts for the bi-encoder. */
function rowsOf(name: string, texts: readonly string[]): Row[] {
  const pairs = new PairEncoder(tokenizer, { maxTokens: 512, truncation: 'longest_first', cacheTokens: 1e5 })
  if (name !== 'rankmill-filter') return texts.map((text) => pairs.encode(QUERY, text))
  return texts.map((text) => ({ ids: [101, ...tokenizer.encode(text, 510).ids, 102], secondStart: 512 }))
}

async function open(name: string, file: string): Promise<InferenceSession> {
  return await InferenceSession.create(join(MODELS, name, file), { logSeverityLevel: 4, intraOpNumThreads: 1 })
}

/** One row of numbers a text: the logit, or the embedding. */
async function run(session: InferenceSession, feeds: Feeds): Promise<number[][]> {
  const wanted = session.outputNames.includes('logits') ? 'logits' : 'sentence_embedding'
  const output = (await session.run(feeds, [wanted]))[wanted]!
  const width = output.dims[1]!
  const data = output.data as Float32Array
  return Array.from({ length: output.dims[0]! }, (_, r) => Array.from(data.subarray(r * width, (r + 1) * width)))
}

function furthest(a: readonly number[][], b: readonly number[][]): number {
  return Math.max(...a.flatMap((row, r) => row.map((value, i) => Math.abs(value - b[r]![i]!))))
}

test('all files together stay below 100 MB, none is above 50 MB', () => {
  const sizes = readdirSync(MODELS, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name)).size)
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(100e6)
  expect(Math.max(...sizes)).toBeLessThan(50e6)
})

describe.each(names)('%s', (name) => {
  test('is found sound by models check', async () => {
    const { findings } = await checkModel(join(MODELS, name))
    expect(findings.filter(({ ok }) => !ok)).toEqual([])
  })

  test.each<[Dtype, number]>([
    ['int8', 1e-3],
    ['fp32', 1e-3],
  ])('gives a text the same %s result alone, padded and in a batch', async (dtype, tolerance) => {
    const session = await open(name, manifestOf(name).dtypes[dtype])
    const rows = rowsOf(name, [PASSAGES.short!, PASSAGES.middling!, PASSAGES.off!, PASSAGES.Greek!])
    const alone: number[][] = []
    for (const row of rows) alone.push((await run(session, feedsOf([row])))[0]!)
    expect(furthest(await run(session, feedsOf(rows)), alone)).toBeLessThan(tolerance)
    const padded: number[][] = []
    for (const row of rows) padded.push((await run(session, feedsOf([row], 200)))[0]!)
    expect(furthest(padded, alone)).toBeLessThan(tolerance)
    await session.release()
  })

  test.each(Object.keys(PASSAGES))('gives finite numbers for a passage that is %s', async (kind) => {
    const session = await open(name, manifestOf(name).dtypes.int8)
    const [numbers] = await run(session, feedsOf(rowsOf(name, [PASSAGES[kind]!])))
    expect(numbers!.every(Number.isFinite)).toBe(true)
    await session.release()
  })
})

describe.each(crossEncoders)('%s', (name) => {
  test('in fp16 and int8 scores near fp32', async () => {
    const feeds = feedsOf(rowsOf(name, [PASSAGES.short!, PASSAGES.middling!, PASSAGES.off!]))
    const logits: Record<string, number[][]> = {}
    for (const [dtype, file] of Object.entries(manifestOf(name).dtypes)) {
      const session = await open(name, file)
      logits[dtype] = await run(session, feeds)
      await session.release()
    }
    expect(furthest(logits.fp16!, logits.fp32!)).toBeLessThan(0.02)
    expect(furthest(logits.int8!, logits.fp32!)).toBeLessThan(0.3)
  })

  test.each<Dtype>(['int8', 'fp32'])('in %s gives transformers.js the same logits', async (dtype) => {
    const [encode, model] = await Promise.all([
      AutoTokenizer.from_pretrained(name),
      AutoModelForSequenceClassification.from_pretrained(name, { dtype }),
    ])
    const session = await open(name, manifestOf(name).dtypes[dtype])
    const texts = [PASSAGES.short!, PASSAGES.off!]
    const inputs = encode([QUERY, QUERY], { text_pair: texts, padding: true })
    const { logits } = (await model(inputs)) as { logits: { data: Float32Array } }
    const theirs = Array.from(logits.data, (logit) => [logit])
    expect(furthest(theirs, await run(session, feedsOf(rowsOf(name, texts))))).toBeLessThan(1e-4)
    await Promise.all([session.release(), model.dispose()])
  })
})

test.each<'fp32' | 'int8'>(['int8', 'fp32'])(
  'the exits of rankmill-small chain in %s: the last gives the score of the whole model',
  async (dtype) => {
    const { dtypes, exits = [] } = manifestOf('rankmill-small')
    expect(exits.length).toBeGreaterThan(1)
    const feeds = feedsOf(rowsOf('rankmill-small', [PASSAGES.short!, PASSAGES.middling!, PASSAGES.off!]))
    let carried: Feeds = {}
    let last: number[][] = []
    for (const { files } of exits) {
      const stage = await open('rankmill-small', files[dtype])
      const { logits, ...more } = await stage.run({ ...feeds, ...carried })
      carried = more as Feeds
      last = Array.from(logits!.data as Float32Array, (logit) => [logit])
      await stage.release()
    }
    const whole = await open('rankmill-small', dtypes[dtype])
    expect(furthest(last, await run(whole, feeds))).toBeLessThan(1e-5)
    await whole.release()
  },
)

test('transformers.js embeds with rankmill-filter as its own pooled output does', async () => {
  const texts = [PASSAGES.short!, PASSAGES.middling!]
  const embed = await pipeline('feature-extraction', 'rankmill-filter', { dtype: 'int8' })
  const theirs = (await embed(texts, { pooling: 'mean', normalize: true })).tolist() as number[][]
  const session = await open('rankmill-filter', manifestOf('rankmill-filter').dtypes.int8)
  const ours = await run(session, feedsOf(rowsOf('rankmill-filter', texts)))
  expect(furthest(theirs, ours)).toBeLessThan(1e-4)
  await Promise.all([session.release(), embed.dispose()])
})
