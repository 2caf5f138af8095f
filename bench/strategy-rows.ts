/**
 * Ways to rerank, written short: parts with spaces between.
 *
 * | part | field |
 * |---|---|
 * | `fp32`, `fp16`, `int8` | `strategy.dtype` |
 * | `bm25:30`, `first:30`, `filter:30`, `bm25+filter:30`, `first+filter:30` | `strategy.prefilter` with its `keep`, which may be `auto`; `first`: the first stage's scores |
 * | `by:score` | `strategy.prefilter.by` |
 * | `nano:20` | `strategy.cascade`, in the order of the parts |
 * | `exit:after:4`, `exit:0.99`, `exit:auto` | `strategy.exit`; without a layer with a `top_n` of 10 |
 * | `fuse:rrf`, `fuse:learned`, `fuse:0.7`, `fuse:score:0.8` | `strategy.fuse` |
 * | `of:first`, `of:filter`, `of:bm25` | `strategy.fuse.of` |
 * | `windows`, `snippet` | `strategy.long_documents` |
 * | `max:128` | `max_tokens_per_doc` |
 * | `model:nano` | `model` |
 * | `embedded` | documents are named by id, in a corpus of which the embeddings are stored (`rankmill corpus embed`) |
 */
import { join } from 'node:path'
import { strategyOf } from '../cli/strategy-flags.js'
import type { RerankInput } from '../shared/protocol/request.js'
import type { StrategyInput } from '../shared/protocol/strategy.js'
import { exitsInWords } from '../worker/model/model-exits.js'
import { readManifest } from '../worker/model/model-folder.js'
import { shippedFolder } from '../worker/model/model-reference.js'

export interface Row {
  readonly name: string
  readonly fields: Pick<RerankInput, 'model' | 'strategy' | 'maxTokensPerDoc' | 'topN'>
  /** Documents are named, not sent. */
  readonly isEmbedded: boolean
  /** What has to be there: models, `rankmill-small + bm25` (learned weights), `exits` and `margins` of the model. */
  readonly needs: readonly string[]
}

export const [SMALL, NANO, FILTER] = ['rankmill-small', 'rankmill-nano', 'rankmill-filter']

/** The baseline, each way alone, and some together. */
export const ROWS: readonly string[] = [
  'fp32',
  'int8',
  'bm25:30',
  'bm25:auto',
  'filter:30',
  'bm25+filter:30',
  'nano:30',
  'model:nano',
  'max:128',
  'windows',
  'snippet max:128',
  'exit:0.7',
  'exit:0.8',
  'exit:0.9',
  'exit:0.99',
  'exit:after:2',
  'exit:after:4',
  'bm25:100 fuse:rrf',
  'bm25:100 fuse:learned',
  'int8 bm25:auto',
  'int8 bm25:30',
  'int8 bm25:20',
  'int8 bm25:15',
  'int8 bm25:12',
  'int8 bm25:10',
  'int8 filter:30',
  'int8 filter:15',
  'int8 bm25+filter:15',
  'int8 bm25+filter:10',
  'int8 nano:15',
  'int8 bm25:15 max:128',
  'int8 bm25:20 max:96',
  'int8 bm25:30 max:64',
  'int8 bm25:30 nano:12',
  'int8 bm25:20 exit:0.9',
  'int8 bm25:20 exit:after:4',
  'int8 bm25:15 fuse:learned',
  'int8 bm25:12 fuse:learned',
  'int8 bm25:15 fuse:score:0.7',
  'int8 bm25:20 max:96 fuse:learned',
  'int8 bm25:30 nano:12 fuse:learned',
  'int8 filter:15 fuse:score:0.8',
  'int8 bm25+filter:15 fuse:learned',
  'int8 model:nano',
  'int8 model:nano bm25:100 fuse:learned',
  'int8 model:nano bm25:50 fuse:learned',
  'int8 model:nano bm25:30 fuse:learned',
  'first:30',
  'first+filter:30',
  'embedded filter:30',
  'int8 embedded filter:15',
  'int8 embedded bm25+filter:15',
  'int8 embedded bm25+filter:12 fuse:learned',
  'int8 first:20',
  'int8 embedded first+filter:20',
  'int8 embedded first+filter:15',
  'int8 embedded first+filter:15 by:score',
  'int8 embedded first+filter:15 by:score fuse:score:0.8 of:first',
  'int8 embedded first+filter:12 by:score',
  'int8 embedded first+filter:12 by:score exit:after:4',
  'int8 embedded first+filter:12 by:score fuse:learned',
  'int8 embedded first+filter:10 by:score fuse:learned',
  'int8 embedded first+filter:10 by:score fuse:learned exit:after:4',
  'int8 embedded first+filter:30 nano:12 fuse:learned',
  'int8 embedded model:nano first+filter:40 fuse:learned',
]

/** @throws RangeError for a part that means nothing */
export function rowOf(name: string): Row {
  const flags: { -readonly [K in keyof NonNullable<Parameters<typeof strategyOf>[0]>]: string | number } = {}
  const cascade: string[] = []
  const needs = new Set<string>()
  let dtype: StrategyInput['dtype'] = 'fp32'
  let isEmbedded = false
  let [model, maxTokensPerDoc, topN]: [string?, number?, number?] = []
  for (const part of name.split(' ').filter(Boolean)) {
    const [word = '', ...rest] = part.split(':')
    const value = rest.join(':')
    if (word === 'fp32' || word === 'fp16' || word === 'int8') dtype = word
    else if (word === 'windows' || word === 'snippet') flags.longDocuments = word
    else if (word === 'max') maxTokensPerDoc = Number(value)
    else if (word === 'model') model = value
    else if (word === 'nano') cascade.push(part)
    else if (word === 'embedded') isEmbedded = true
    else if (word === 'fuse') flags.fuse = value
    else if (word === 'by') flags.prefilterBy = value
    else if (word === 'of') flags.fuseOf = value.replace('filter', FILTER).replace('first', 'first-stage')
    else if (/^(bm25|first|filter)(\+(bm25|filter))?$/.test(word)) {
      flags.prefilter = value === 'auto' ? value : Number(value)
      flags.prefilterModel = word.replace('filter', FILTER).replace('first', 'first-stage')
      if (word.includes('filter')) needs.add(FILTER)
    } else if (word === 'exit') {
      flags.exit = value
      needs.add(value.startsWith('after:') ? 'exits' : 'margins')
      if (!value.startsWith('after:')) topN = 10
    } else throw new RangeError(`"${part}" in the row "${name}": no such part`)
  }
  if (cascade.length > 0 || model === 'nano') needs.add(NANO)
  if (isEmbedded) needs.add(FILTER)
  if (flags.fuse === 'learned')
    needs.add(`${model === 'nano' ? NANO : SMALL} + ${flags.fuseOf ?? flags.prefilterModel}`)
  const all = { ...flags, ...(cascade.length > 0 ? { cascade: cascade.join(',') } : {}) } as Parameters<
    typeof strategyOf
  >[0]
  return {
    name,
    fields: { ...(model ? { model } : {}), maxTokensPerDoc, topN, strategy: { ...strategyOf(all), dtype } },
    isEmbedded,
    needs: [...needs],
  }
}

/** What rows may need, as far as it is there. */
export async function present(): Promise<Set<string>> {
  const found = new Set<string>()
  for (const name of [SMALL, NANO, FILTER]) {
    const manifest = await readManifest(join(shippedFolder(), name)).catch(() => undefined)
    if (manifest) found.add(name)
    for (const first of Object.keys(manifest?.fusion?.weights ?? {})) found.add(`${name} + ${first}`)
    if (name !== SMALL) continue
    const { exitLayers, exitConfidences } = exitsInWords(manifest?.exits ?? [])
    if (exitLayers.length > 1) found.add('exits')
    if (exitConfidences.length > 0) found.add('margins')
  }
  return found
}
