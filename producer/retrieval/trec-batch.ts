/** A whole retrieval run as a batch run: a query is an item, its lines of the new run are the answer. */
import { createHash } from 'node:crypto'
import { type BatchItem, type BatchSource, type InputMark, unreadable } from '../batch/batch-source.js'
import type { BatchFormat } from '../batch/batch-state.js'
import { DigestChain, NO_CONTENT } from '../lines/digest-chain.js'
import type { LineMark } from '../lines/line-reader.js'
import { storedFile } from '../lines/stored-file.js'
import { partsOf, type Source, type Sources } from '../lines/text-lines.js'
import { type TrecRequest, type TrecRequestsOptions, trecRequests } from './trec-requests.js'
import { formatTrecLines, type RankedScore, type TrecRun, withRest } from './trec-run.js'

export interface TrecSourceOptions extends TrecRequestsOptions {
  readonly queries: Sources
  readonly runFile: string
}

export class TrecSource implements BatchSource {
  readonly name: string
  readonly #options: TrecSourceOptions
  readonly #requests: AsyncGenerator<TrecRequest>
  #next: IteratorResult<TrecRequest>
  /** Of `#next`, from 1. */
  #place = 1

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
    this.#next = first
  }

  shareBefore(offset: number): number {
    return offset / Math.max(1, this.#options.run.size)
  }

  async fingerprint(): Promise<string> {
    const { corpus, queries, runFile, depth, missing } = this.#options
    const files = [queries, runFile, 'file' in corpus ? corpus.file : []].flatMap(partsOf)
    const samples = files.map((file) => sampleOf(file))
    const parts = [await Promise.all(samples), 'name' in corpus ? corpus.name : '', depth, missing]
    return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32)
  }

  async digestAt({ line }: LineMark): Promise<string | undefined> {
    const chain = new DigestChain()
    let digest = NO_CONTENT
    for (; this.#place <= line && !this.#next.done; await this.#advance()) digest = linked(chain, this.#next.value)
    return this.#place > line ? digest : undefined
  }

  async *read(from: InputMark): AsyncGenerator<BatchItem> {
    const chain = new DigestChain(from.digest)
    try {
      for (; !this.#next.done; await this.#advance()) {
        const line = this.#place
        if (line <= from.line) continue
        const { queryId, docIds, request } = this.#next.value
        const digest = linked(chain, this.#next.value)
        yield { line, end: line, digest, bytes: sizeOf(request), customId: queryId, docIds, request }
      }
    } finally {
      await this.close()
    }
  }

  async #advance(): Promise<void> {
    this.#next = await this.#requests.next()
    this.#place++
  }

  /** Frees what reading holds. */
  async close(): Promise<void> {
    await this.#requests.return(undefined)
  }
}

/** Of what can be read only once nothing: its digest is taken with the requests. */
async function sampleOf(file: Source): Promise<string> {
  if (typeof file !== 'string' || file === '-') return ''
  try {
    return (await (await storedFile(file))?.fingerprint()) ?? ''
  } catch (error) {
    throw unreadable(file, error)
  }
}

function linked(chain: DigestChain, { queryId, request }: TrecRequest): string {
  chain.update(JSON.stringify([queryId, request.query, request.documents]))
  return chain.link()
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
        ({ index, id, relevance_score }): RankedScore => ({
          docId: item.docIds?.[index] ?? id ?? '',
          score: relevance_score,
        }),
      )
      const firstStage = run.get(queryId) ?? { docIds: [], scores: [] }
      // All that is not among the results, candidates within the depth whose passage is missing too.
      const ranked = withRest(reranked, firstStage, 0)
      return formatTrecLines(queryId, ranked, tag)
    },
  }
}
