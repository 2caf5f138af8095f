/** A whole retrieval run as a batch run: a query is an item, its lines of the new run are the answer. */
import { createHash } from 'node:crypto'
import { type BatchItem, type BatchSource, fingerprintOfFile } from '../batch/batch-source.js'
import type { BatchFormat } from '../batch/batch-state.js'
import type { LineMark } from '../lines/line-reader.js'
import { type TrecRequest, type TrecRequestsOptions, trecRequests } from './trec-requests.js'
import { formatTrecLines, type RankedScore, type TrecRun, withRest } from './trec-run.js'

export interface TrecSourceOptions extends TrecRequestsOptions {
  readonly queries: string
  readonly runFile: string
}

export class TrecSource implements BatchSource {
  readonly name: string
  readonly #options: TrecSourceOptions
  readonly #requests: AsyncGenerator<TrecRequest>
  readonly #first: IteratorResult<TrecRequest>

  /** Reads and checks all of the input. @throws RankmillError as `trecRequests` */
  static async open(options: TrecSourceOptions): Promise<TrecSource> {
    const requests = trecRequests(options)
    return new TrecSource(options, requests, await requests.next())
  }

  private constructor(
    options: TrecSourceOptions,
    requests: AsyncGenerator<TrecRequest>,
    first: IteratorResult<TrecRequest>,
  ) {
    this.name = options.runFile
    this.#options = options
    this.#requests = requests
    this.#first = first
  }

  shareBefore(offset: number): number {
    return offset / Math.max(1, this.#options.run.size)
  }

  async fingerprint(): Promise<string> {
    const { corpus, queries, runFile, depth, missing } = this.#options
    const files = [queries, runFile, ...('file' in corpus && typeof corpus.file === 'string' ? [corpus.file] : [])]
    const parts = [await Promise.all(files.map(fingerprintOfFile)), 'name' in corpus ? corpus.name : '', depth, missing]
    return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32)
  }

  async *read(from: LineMark): AsyncGenerator<BatchItem> {
    let line = 0
    try {
      for (let next = this.#first; !next.done; next = await this.#requests.next()) {
        if (++line <= from.line) continue
        const { queryId, request } = next.value
        yield { line, end: line, bytes: sizeOf(request), customId: queryId, request }
      }
    } finally {
      await this.close()
    }
  }

  /** Frees what reading holds. */
  async close(): Promise<void> {
    await this.#requests.return(undefined)
  }
}

function sizeOf({ query, documents }: TrecRequest['request']): number {
  const parts = Array.isArray(documents) ? documents : (documents as { ids: readonly string[] }).ids
  return parts.reduce((sum, part) => sum + (typeof part === 'string' ? part : part.text).length, query.length)
}

/**
 * Answers as lines of a run: what was reranked, then what the run had beyond it, in its order and below. Queries that
 * failed have no lines; the report lists them.
 *
 * @param tag the last column
 */
export function trecLines(run: TrecRun, tag: string): BatchFormat {
  return {
    encode: ({ item, outcome }) => {
      if (outcome.error || item.customId === null) return ''
      const queryId = item.customId
      const reranked = outcome.result.results.map(
        ({ id, relevance_score }): RankedScore => ({ docId: id ?? '', score: relevance_score }),
      )
      const firstStage = run.get(queryId) ?? { docIds: [], scores: [] }
      // All that is not among the results, candidates within the depth whose passage is missing too.
      const ranked = withRest(reranked, firstStage, 0)
      return formatTrecLines(queryId, ranked, tag)
    },
  }
}
