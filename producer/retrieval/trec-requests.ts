/** A retrieval run as requests: each query with the first of its candidates. */
import { RankmillError } from '../../shared/errors.js'
import { MAX_ID_CHARACTERS } from '../../shared/protocol/field-schemas.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { nameOfAll, type Sources } from '../lines/text-lines.js'
import { readQueries } from './beir.js'
import { PassageStore, type PassageStoreOptions } from './passage-store.js'
import type { TrecRun } from './trec-run.js'

export interface TrecRequestsOptions extends PassageStoreOptions {
  /** A BEIR corpus, whose passages go into the requests, or the name of a stored one, which the requests refer to. */
  readonly corpus: { readonly file: Sources } | { readonly name: string }
  /** A BEIR file of queries; those that the run does not name are left out. */
  readonly queries: Sources
  readonly run: TrecRun
  /** Candidates of each query, the best first by the run's order. */
  readonly depth: number
  /** What to do about queries of the run and candidates that are in no file. Default: `error`. */
  readonly missing?: 'error' | 'skip'
  /** Fields of every request. */
  readonly request?: Omit<RerankInput, 'id' | 'query' | 'documents'>
  /** Called once before the first request, with what `missing: 'skip'` leaves out. */
  readonly onSkipped?: (skipped: SkippedParts) => void
}

export interface SkippedParts {
  /** Queries of the run that the file of queries lacks. */
  readonly unknownQueries: readonly string[]
  /** Candidates that the corpus lacks. Not known of a stored corpus: the worker says `missing_documents`. */
  readonly missingPassages: readonly string[]
  /** Queries whose every candidate is missing. */
  readonly emptyQueries: readonly string[]
  /** Passages that were longer than allowed, and passages with halves of characters, which were replaced. */
  readonly cutPassages: number
  readonly mendedPassages: number
}

export interface TrecRequest {
  readonly queryId: string
  /** Of the request's documents, in their order: a result's `index` is a place in it. */
  readonly docIds: readonly string[]
  readonly request: RerankInput
}

/** Ids listed in an error. */
const LISTED = 10

/**
 * Makes the requests of a run, in its order of queries. Everything is read and checked before the first one. Memory
 * holds the run, its queries, and passages up to `maxMemoryBytes`; the corpus is read once and need not fit.
 *
 * @throws RankmillError `invalid_request` as the readers do, where depth is not an integer of at least 1, and listing
 *   queries of the run that are unknown; `missing_documents` listing candidates that the corpus lacks
 */
export async function* trecRequests(options: TrecRequestsOptions): AsyncGenerator<TrecRequest> {
  const { corpus, run, depth, missing = 'error', request = {} } = options
  if (!Number.isSafeInteger(depth) || depth < 1)
    throw new RankmillError('invalid_request', `depth: must be an integer of at least 1, got ${depth}`, {
      param: 'depth',
    })
  const texts = await queryTexts(options.queries, run)
  const unknownQueries = [...run.keys()].filter((id) => !texts.has(id))
  if (unknownQueries.length > 0 && missing === 'error')
    throw new RankmillError(
      'invalid_request',
      `${nameOfAll(options.queries)}: has no text for ${unknownQueries.length} of the run's ${run.size} queries: ${listed(unknownQueries)}`,
      { param: 'queries' },
    )
  const candidates = (queryId: string) => run.get(queryId)?.docIds.slice(0, depth) ?? []
  const scoresOf = (queryId: string) => {
    const { docIds, scores } = run.get(queryId) ?? { docIds: [], scores: [] }
    const byId = new Map(docIds.map((id, i) => [id, scores[i] ?? 0]))
    return (id: string) => byId.get(id) ?? 0
  }
  const queryIds = [...run.keys()].filter((id) => texts.has(id))
  const store = 'file' in corpus ? await PassageStore.read(corpus.file, allOf(queryIds, candidates), options) : null
  try {
    const missingPassages = store ? [...store.missing()] : [...allOf(queryIds, candidates)].filter(isTooLong)
    if (missingPassages.length > 0 && missing === 'error')
      throw new RankmillError(
        'missing_documents',
        `${'file' in corpus ? nameOfAll(corpus.file) : corpus.name}: has no passage for ${missingPassages.length} candidates of the run: ${listed(missingPassages)}`,
        { param: 'corpus' },
      )
    const present = (queryId: string) => candidates(queryId).filter((id) => (store ? store.has(id) : !isTooLong(id)))
    const emptyQueries = missingPassages.length > 0 ? queryIds.filter((id) => present(id).length === 0) : []
    options.onSkipped?.({
      unknownQueries,
      missingPassages,
      emptyQueries,
      cutPassages: store?.cut ?? 0,
      mendedPassages: store?.mended ?? 0,
    })
    for (const queryId of queryIds) {
      const docIds = present(queryId)
      if (docIds.length === 0) continue
      const scoreOf = scoresOf(queryId)
      const documents = store
        ? docIds.map((id) => ({ ...(isTooLong(id) ? {} : { id }), text: store.get(id) ?? '', score: scoreOf(id) }))
        : { corpus: 'name' in corpus ? corpus.name : '', ids: docIds, scores: docIds.map(scoreOf) }
      yield { queryId, docIds, request: { ...request, query: texts.get(queryId) ?? '', documents } }
    }
  } finally {
    await store?.close()
  }
}

async function queryTexts(source: Sources, run: TrecRun): Promise<ReadonlyMap<string, string>> {
  const texts = new Map<string, string>()
  for await (const { id, text } of readQueries(source)) if (run.has(id)) texts.set(id, text)
  return texts
}

/** For a request: its document then has a place and no id, and a stored corpus cannot have it. */
function isTooLong(id: string): boolean {
  return id.length > MAX_ID_CHARACTERS
}

function* allOf(queryIds: readonly string[], candidates: (queryId: string) => readonly string[]): Generator<string> {
  for (const queryId of queryIds) yield* candidates(queryId)
}

function listed(ids: readonly string[]): string {
  const first = ids.slice(0, LISTED).map((id) => JSON.stringify(id))
  return ids.length > LISTED ? `${first.join(', ')} and ${ids.length - LISTED} more` : first.join(', ')
}
