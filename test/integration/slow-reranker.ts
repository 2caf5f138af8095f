/**
 * The rules of docs/strategies.md, written again as slowly and plainly as can be: one pair at a time through the engine,
 * nothing batched, nothing remembered, nothing taken from the stages that it is there to check.
 */
import type { RerankInput } from '../../producer/index.js'
import type { Options } from '../../shared/options.js'
import type { InferenceEngine, States } from '../../worker/inference/engine.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import type { BiEncoderModel } from '../../worker/model/bi-encoder-model.js'
import { openBiEncoder } from '../../worker/model/bi-encoder-model.js'
import { type Model, openModel } from '../../worker/model/model.js'
import { loadTokenizer, type Tokenizer } from '../../worker/tokenize/tokenizer.js'
import { bm25, type Reading, SlowReader } from './slow-reader.js'

export interface SlowRow {
  readonly index: number
  readonly by: string
  /** null: made up, so that the order holds. */
  readonly score: number | null
  /** The score is what is known of it, but no higher than that of the row before. */
  readonly isEstimate?: true
}

export interface SlowResult {
  readonly rows: readonly SlowRow[]
  readonly usage: Record<'pairs' | 'scored' | 'prefiltered' | 'cascaded' | 'exited_early' | 'truncated', number>
  readonly windows: number
  /** Nothing was decided by less than what rounding may change. */
  readonly isClear: boolean
}

type Dtype = 'fp32' | 'int8'
type Keep = number | 'auto' | undefined
interface Ranked {
  readonly index: number
  readonly score: number
}

/** Numbers that are nearer to each other may come in either order. */
const ROUNDING = 1e-4
const K = 60

export class SlowReranker {
  private isClear = true

  private constructor(
    private readonly names: { readonly small: string; readonly nano: string; readonly filter: string },
    private readonly models: ReadonlyMap<string, { readonly model: Model; readonly engine: InferenceEngine }>,
    private readonly filter: { readonly model: BiEncoderModel; readonly engine: InferenceEngine },
    private readonly tokenizer: Tokenizer,
    private readonly reader: SlowReader,
  ) {}

  static async open(names: { small: string; nano: string; filter: string }, options: Options): Promise<SlowReranker> {
    const { cacheDir } = options
    const log = { info: () => undefined, warn: () => undefined }
    const engineOf = (model: Model | BiEncoderModel) =>
      createEngine(model, {
        device: 'cpu',
        threads: 1,
        sessions: 1,
        calibrate: false,
        callTimeoutMs: 60_000,
        cacheDir,
        log,
      })
    const models = new Map<string, { model: Model; engine: InferenceEngine }>()
    for (const name of [names.small, names.nano]) {
      for (const dtype of ['fp32', 'int8'] as const) {
        const model = await openModel(name, { dtype, device: 'cpu', cacheDir, allowHub: false })
        models.set(`${name} ${dtype}`, { model, engine: await engineOf(model) })
      }
    }
    const filter = await openBiEncoder(names.filter, { dtype: 'auto', device: 'cpu', cacheDir, allowHub: false })
    const tokenizer = await loadTokenizer(filter.folder)
    return new SlowReranker(
      names,
      models,
      { model: filter, engine: await engineOf(filter) },
      tokenizer,
      new SlowReader(tokenizer, options),
    )
  }

  async close(): Promise<void> {
    for (const { engine } of [...this.models.values(), this.filter]) await engine.close()
  }

  async rerank(input: RerankInput): Promise<SlowResult> {
    this.isClear = true
    const { query, topN = null, strategy = {} } = input
    const given = input.documents as { text: string; score: number }[]
    const documents = given.map(({ text }) => text)
    const dtype = strategy.dtype as Dtype
    const { model } = this.modelOf(this.names.small, dtype)
    const read = documents.map((text) => this.reader.read(query, text, input))
    let left = documents.map((_, index) => index)
    const behind: SlowRow[] = []

    const { prefilter, fuse = 'none' } = strategy
    const filterName = prefilter?.model ?? 'bm25'
    const filterScores = new Map<number, number>()
    let prefiltered = 0
    let fusedWith = filterName
    if (prefilter) {
      if (!keepsAll(prefilter.keep, left.length, topN) || fuse !== 'none') {
        const ranking = await this.filtered(filterName, prefilter.by === 'score', query, given)
        const count = this.kept(prefilter.keep, ranking, topN)
        const of = typeof fuse === 'object' ? (fuse.of ?? filterName) : filterName
        const opinion = of === filterName ? ranking : await this.filtered(of, false, query, given)
        for (const { index } of ranking.slice(0, count))
          filterScores.set(index, opinion.find((one) => one.index === index)!.score)
        fusedWith = of
        behind.push(...ranking.slice(count).map(({ index }) => ({ index, by: filterName, score: null })))
        prefiltered = behind.length
        left = ranking.slice(0, count).map(({ index }) => index)
      }
    }

    let scored = 0
    for (const stage of strategy.cascade ?? []) {
      if (keepsAll(stage.keep, left.length, topN) || stage.model === this.names.small) continue
      scored += left.length
      const { name: by, calibrations } = this.modelOf(this.names.nano, dtype).model
      const line = calibrations[model.name]
      const ranking = this.rank(
        await each(left, async (index) => ({
          index,
          score: await this.best(this.names.nano, dtype, query, read[index]!),
        })),
      )
      const count = this.kept(stage.keep, ranking, topN)
      const placed = ranking.slice(count).map(({ index, score }): SlowRow => {
        if (!line || fuse !== 'none') return { index, by, score: null }
        return { index, by, score: sigmoid(line.scale * score + line.offset), isEstimate: true }
      })
      behind.unshift(...placed)
      left = ranking.slice(0, count).map(({ index }) => index)
    }
    scored += left.length

    const exit = this.exitOf(strategy.exit ?? 'never', topN, model)
    const final = new Map<number, number>()
    let early: { index: number; stage: number; score: number }[] = []
    if (exit === 'never') {
      for (const index of left) final.set(index, await this.best(this.names.small, dtype, query, read[index]!))
    } else if ('after' in exit) {
      for (const index of left) final.set(index, await this.estimate(dtype, query, read[index]!, exit.after))
    } else {
      let inside = [...left]
      for (const [stage] of model.exits.entries()) {
        const isLast = stage === model.exits.length - 1
        const scores = await each(inside, async (index) => ({
          index,
          score: await this.estimate(dtype, query, read[index]!, stage),
        }))
        if (isLast) for (const { index, score } of scores) final.set(index, score)
        const wanted = this.rank(scores)[(topN ?? 0) - 1]?.score ?? Number.NEGATIVE_INFINITY
        const leavers = scores.filter(({ score }) => {
          if (isLast) return false
          const distance = score + exit.margins[stage]! - wanted
          if (Math.abs(distance) < ROUNDING) this.isClear = false
          return distance < 0
        })
        early = [...early, ...leavers.map(({ index, score }) => ({ index, stage, score }))]
        inside = inside.filter((index) => !leavers.some((leaver) => leaver.index === index))
      }
    }
    const leftRows = [...new Set(early.map(({ stage }) => stage))]
      .sort((a, b) => b - a)
      .flatMap((stage) => this.rank(early.filter((one) => one.stage === stage)))

    const layer = (stage: number) => `${model.name}@layer${model.exits[stage]?.layer}`
    const name = exit !== 'never' && 'after' in exit ? layer(exit.after) : model.name
    const ranking = this.rank([...final].map(([index, score]) => ({ index, score })))
    const fused = fuse !== 'none' && prefilter !== undefined
    const top: SlowRow[] = fused
      ? this.fused(ranking, filterScores, fuse, model.fusion[fusedWith]).map(({ index, score }) => ({
          index,
          score,
          by: `${name}+${fusedWith}`,
        }))
      : ranking.map(({ index, score }) => ({ index, score: sigmoid(score), by: name }))
    const rows: SlowRow[] = [
      ...top,
      ...leftRows.map(
        ({ index, stage, score }): SlowRow => ({ index, by: layer(stage), score: sigmoid(score), isEstimate: true }),
      ),
      ...behind,
    ]
    const looked = rows.slice(0, rows.length - prefiltered).map(({ index }) => read[index]!)
    return {
      rows: topN === null ? rows : rows.slice(0, topN),
      usage: {
        pairs: documents.length,
        scored,
        prefiltered,
        cascaded: behind.length - prefiltered,
        exited_early: exit !== 'never' && 'after' in exit ? left.length : early.length,
        truncated: looked.filter(({ truncated }) => truncated).length,
      },
      windows: looked.reduce((sum, { pieces }) => sum + pieces.length, 0),
      isClear: this.isClear,
    }
  }

  private modelOf(name: string, dtype: Dtype) {
    const found = this.models.get(`${name} ${dtype}`)
    if (!found) throw new Error(`no ${name} in ${dtype}`)
    return found
  }

  private kept(keep: Keep, ranking: readonly Ranked[], topN: number | null): number {
    const count = ranking.length
    if (keep !== undefined && keep !== 'auto') return numberOf(keep, count)
    const wanted = ranking[(topN ?? 10) - 1]
    if (!wanted) return count
    const mean = ranking.reduce((sum, { score }) => sum + score, 0) / count
    const floor = wanted.score - Math.sqrt(ranking.reduce((sum, { score }) => sum + (score - mean) ** 2, 0) / count)
    const least = Math.max(20, topN ?? 10)
    if (ranking.some(({ score }, i) => i >= least && Math.abs(score - floor) < ROUNDING)) this.isClear = false
    return Math.max(least, ranking.filter(({ score }) => score >= floor).length)
  }

  private exitOf(exit: unknown, topN: number | null, { exits }: Model) {
    if (exit === 'never' || exits.length === 0) return 'never'
    if (typeof exit === 'string' && exit.startsWith('after:')) {
      const after = exits.findIndex(({ layer }) => layer === Number(exit.slice('after:'.length)))
      return after === exits.length - 1 ? 'never' : { after }
    }
    if (topN === null) return 'never'
    const wanted = exit === 'auto' ? 0.99 : (exit as { confidence: number }).confidence
    const margins = exits
      .slice(0, -1)
      .map((each) => each.margins.find(({ confidence }) => confidence >= wanted)?.margin)
    return { margins }
  }

  /** Score descending, then index. */
  private rank<T extends Ranked>(list: readonly T[]): T[] {
    const order = [...list].sort((a, b) => b.score - a.score || a.index - b.index)
    order.forEach(({ score }, i) => {
      const gap = (order[i - 1]?.score ?? Number.POSITIVE_INFINITY) - score
      if (gap > 0 && gap < ROUNDING) this.isClear = false
    })
    return order
  }

  /** Of the best in the model's order. */
  private fused(
    ranking: readonly Ranked[],
    filterScores: ReadonlyMap<number, number>,
    fuse: unknown,
    learned?: number,
  ) {
    const byFilter = this.rank(ranking.map(({ index }) => ({ index, score: filterScores.get(index)! })))
    const place = (list: readonly Ranked[], index: number) => 1 + list.findIndex((one) => one.index === index)
    const given = typeof fuse === 'object' ? (fuse as { weight: number | 'learned'; by?: string }) : { weight: fuse }
    const isLearned = given.weight === 'learned'
    const weight = isLearned ? 1 / (1 + learned!) : typeof given.weight === 'number' ? given.weight : 0.5
    const byScore = isLearned || ('by' in given && given.by === 'score')
    const scores = ranking.map(({ index }) => {
      const worth = (list: readonly Ranked[]) => (byScore ? zScore(list, index) : (K + 1) / (K + place(list, index)))
      return { index, score: weight * worth(ranking) + (1 - weight) * worth(byFilter) }
    })
    if (byScore) return this.rank(scores)
    // Places are whole numbers: what is nearly the same was meant to be.
    return [...scores].sort((a, b) => b.score - a.score || a.index - b.index)
  }

  /** The whole model's logit of the best piece. */
  private async best(name: string, dtype: Dtype, query: string, { pieces }: Reading): Promise<number> {
    const { engine } = this.modelOf(name, dtype)
    const logits = await each(pieces, async (piece) => (await engine.run(this.reader.pair(query, piece))).logits[0]!)
    return Math.max(...logits)
  }

  /** The calibrated logit of the best piece after a stage. */
  private async estimate(dtype: Dtype, query: string, { pieces }: Reading, last: number): Promise<number> {
    const { model, engine } = this.modelOf(this.names.small, dtype)
    const isWhole = last === model.exits.length - 1
    const { scale, offset } = isWhole ? { scale: 1, offset: 0 } : model.exits[last]!.calibration
    const logits = await each(pieces, async (piece) => {
      let states: States | undefined
      let logit = Number.NaN
      for (let stage = 0; stage <= last; stage++) {
        const output = await engine.run({ ...this.reader.pair(query, piece), stage, ...(states ? { states } : {}) })
        states = output.states
        logit = output.logits[0]!
      }
      return scale * logit + offset
    })
    return Math.max(...logits)
  }

  /** All documents in the order of one filter, or of several by their ranks. */
  private async filtered(
    name: string,
    byScore: boolean,
    query: string,
    given: readonly { text: string; score: number }[],
  ): Promise<Ranked[]> {
    const documents = given.map(({ text }) => text)
    const orders = await each(name.split('+'), async (part) => {
      const scores =
        part === 'first-stage'
          ? given.map(({ score }) => score)
          : part === 'bm25'
            ? bm25(query, documents)
            : await this.cosines(query, documents)
      return this.rank(scores.map((score, index) => ({ index, score })))
    })
    const [only] = orders
    if (only && orders.length === 1) return only
    const place = (list: readonly Ranked[], index: number) => list.findIndex((one) => one.index === index)
    const worth = (list: readonly Ranked[], index: number) =>
      byScore ? zScore(list, index) : (K + 1) / (K + 1 + place(list, index))
    const scores = documents.map((_, index) => ({
      index,
      score: orders.reduce((sum, order) => sum + worth(order, index), 0) / orders.length,
    }))
    if (byScore) return this.rank(scores)
    return scores.sort((a, b) => b.score - a.score || a.index - b.index)
  }

  private async cosines(query: string, documents: readonly string[]): Promise<number[]> {
    const { model, engine } = this.filter
    const { before, after } = this.tokenizer.template
    const embed = async (text: string) => {
      const ids = [...before, ...this.reader.tokens(text), ...after]
      const inputIds = BigInt64Array.from(ids, BigInt)
      const attentionMask = new BigInt64Array(ids.length).fill(1n)
      const tokenTypeIds = new BigInt64Array(ids.length)
      return (await engine.run({ size: 1, length: ids.length, inputIds, attentionMask, tokenTypeIds })).logits
    }
    const asked = await embed(model.prompts.query + query)
    return await each(documents, async (text) => {
      const own = inBytes(await embed(model.prompts.passage + text))
      return own.reduce((sum, value, i) => sum + value * asked[i]!, 0)
    })
  }
}

function zScore(list: readonly Ranked[], index: number): number {
  const mean = list.reduce((sum, { score }) => sum + score, 0) / list.length
  const variance = list.reduce((sum, { score }) => sum + (score - mean) ** 2, 0) / list.length
  return (list.find((one) => one.index === index)!.score - mean) / (Math.sqrt(variance) + 1e-9)
}

/** One after the other. */
async function each<T, R>(list: readonly T[], of: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  for (const one of list) results.push(await of(one))
  return results
}

/** What the models that ship put on top of a logit. */
const sigmoid = (logit: number) => 1 / (1 + Math.exp(-logit))

const numberOf = (keep: number, count: number) => (keep < 1 ? Math.max(1, Math.ceil(count * keep - 1e-9)) : keep)

const keepsAll = (keep: Keep, count: number, topN: number | null) =>
  (keep === undefined || keep === 'auto' ? Math.max(20, topN ?? 10) : numberOf(keep, count)) >= count

/** A passage's embedding is kept in steps of its largest number's 127th part. */
function inBytes(vector: Float32Array): number[] {
  const step = Math.max(...vector.map(Math.abs)) / 127
  return Array.from(vector, (value) => Math.round(value / step) * step)
}
