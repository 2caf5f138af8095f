/** Scores of one query's candidates by a model folder, exit by exit: what bench/quality.ts measures. */
import { join } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Manifest } from '../worker/model/model-folder.js'
import { PairEncoder } from '../worker/tokenize/pair-encoder.js'
import { loadTokenizer } from '../worker/tokenize/tokenizer.js'

export interface Scorer {
  /** What to add to the model's name for each list of scores: nothing for the whole model. */
  readonly labels: readonly string[]
  /** [labels][texts] */
  score(query: string, texts: readonly string[]): Promise<number[][]>
}

interface Row {
  readonly ids: ArrayLike<number>
  /** Where the second segment begins. */
  readonly second: number
}
type Feeds = Record<string, Tensor>

/** Small batches of like length are the fastest on a CPU. */
const BATCH = 4

/** @param dtype one of those that rankmill.json names */
export async function scorerOf(folder: string, manifest: Manifest, dtype: string): Promise<Scorer> {
  const tokenizer = await loadTokenizer(folder)
  const maxTokens = manifest.max_tokens ?? 512
  const open = async (file: string) =>
    await InferenceSession.create(join(folder, file), {
      intraOpNumThreads: 1,
      logSeverityLevel: 4,
      extra: { session: { intra_op: { allow_spinning: '0' } } },
    })
  if (manifest.kind === 'bi-encoder') {
    const { before, after } = tokenizer.template
    const rowOf = (text: string): Row => ({
      ids: [...before, ...tokenizer.encode(text, maxTokens - before.length - after.length).ids, ...after],
      second: Number.POSITIVE_INFINITY,
    })
    return new BiEncoderScorer(await open(fileOf(manifest, dtype)), rowOf)
  }
  const pairs = new PairEncoder(tokenizer, { maxTokens, truncation: 'longest_first', cacheTokens: 1e6 })
  const rowOf = (query: string, text: string): Row => {
    const { ids, secondStart } = pairs.encode(query, text)
    return { ids, second: secondStart }
  }
  const exits = (manifest.exits as { layer: number; files: Record<string, string> }[]).map(
    ({ layer, files }) => [` exit ${layer}`, files[dtype] ?? ''] as const,
  )
  const stages = exits.length > 0 ? exits : [['', fileOf(manifest, dtype)] as const]
  const labels = stages.map(([label], i) => (i === stages.length - 1 ? '' : label))
  return new CrossEncoderScorer(labels, await Promise.all(stages.map(([, file]) => open(file))), rowOf)
}

function fileOf({ dtypes }: Manifest, dtype: string): string {
  return Object.entries(dtypes).find(([name]) => name === dtype)?.[1] ?? ''
}

/** Calls `run` with batches of like length, and the places of their rows. */
async function inBatches(rows: readonly Row[], run: (feeds: Feeds, at: readonly number[]) => Promise<void>) {
  const order = rows.map((_, i) => i).sort((a, b) => (rows[a]?.ids.length ?? 0) - (rows[b]?.ids.length ?? 0))
  for (let start = 0; start < order.length; start += BATCH) {
    const at = order.slice(start, start + BATCH)
    await run(feedsOf(at.flatMap((i) => rows[i] ?? [])), at)
  }
}

function feedsOf(rows: readonly Row[]): Feeds {
  const length = Math.max(...rows.map(({ ids }) => ids.length))
  const fill = (value: (row: Row, i: number) => number) => {
    const values = new BigInt64Array(rows.length * length)
    rows.forEach((row, r) => {
      for (let i = 0; i < row.ids.length; i++) values[r * length + i] = BigInt(value(row, i))
    })
    return new Tensor('int64', values, [rows.length, length])
  }
  return {
    input_ids: fill(({ ids }, i) => ids[i] ?? 0),
    attention_mask: fill(() => 1),
    token_type_ids: fill(({ second }, i) => (i >= second ? 1 : 0)),
  }
}

function floats(tensor: Tensor | undefined): Float32Array {
  if (!(tensor?.data instanceof Float32Array)) throw new Error('the model gave no floats')
  return tensor.data
}

class CrossEncoderScorer implements Scorer {
  constructor(
    readonly labels: readonly string[],
    private readonly stages: readonly InferenceSession[],
    private readonly rowOf: (query: string, text: string) => Row,
  ) {}

  async score(query: string, texts: readonly string[]): Promise<number[][]> {
    const scores = this.labels.map(() => new Array<number>(texts.length).fill(0))
    const rows = texts.map((text) => this.rowOf(query, text))
    await inBatches(rows, async (feeds, at) => {
      let carried: Feeds = {}
      for (const [exit, stage] of this.stages.entries()) {
        const { logits, ...more } = await stage.run({ ...feeds, ...carried })
        const list = scores[exit] ?? []
        for (const [r, logit] of floats(logits).entries()) list[at[r] ?? 0] = logit
        carried = more as Feeds
      }
    })
    return scores
  }
}

class BiEncoderScorer implements Scorer {
  readonly labels = ['']
  private readonly known = new Map<string, Float32Array>()

  constructor(
    private readonly session: InferenceSession,
    private readonly rowOf: (text: string) => Row,
  ) {}

  async score(query: string, texts: readonly string[]): Promise<number[][]> {
    const unknown = [...new Set([query, ...texts])].filter((text) => !this.known.has(text))
    await inBatches(unknown.map(this.rowOf), async (feeds, at) => {
      const { sentence_embedding: output } = await this.session.run(feeds, ['sentence_embedding'])
      const vectors = floats(output)
      const width = vectors.length / at.length
      for (const [r, i] of at.entries()) this.known.set(unknown[i] ?? '', vectors.slice(r * width, (r + 1) * width))
    })
    const asked = this.known.get(query) ?? new Float32Array()
    const cosine = (text: string) => (this.known.get(text) ?? asked).reduce((sum, v, i) => sum + v * (asked[i] ?? 0), 0)
    return [texts.map(cosine)]
  }
}
