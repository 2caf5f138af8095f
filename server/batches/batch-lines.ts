/** The lines of a batch in the words of its callers: bodies as routes take them, answers as routes give them. */
import { formatBatchLine, readOutputLine } from '../../producer/batch/batch-line.js'
import type { BatchItem, BatchSource, InputMark } from '../../producer/batch/batch-source.js'
import type { BatchFormat } from '../../producer/batch/batch-state.js'
import type { LineMark } from '../../producer/lines/line-reader.js'
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { Understood } from '../dialects/dialect.js'
import { plain } from '../dialects/plain.js'
import { checkWhole } from '../rerank-calls.js'

type Translated = BatchItem & { readonly understood?: Understood }
export type FillRequest = (request: Understood['request']) => Promise<RerankInput>

/** A source whose requests are understood as those of `/v1/rerank`. */
export class TranslatedSource implements BatchSource {
  readonly #source: BatchSource
  readonly #defaults: Readonly<Record<string, unknown>>
  readonly #fill: FillRequest

  /** @param defaults fields of bodies that do not give them */
  constructor(source: BatchSource, defaults: Readonly<Record<string, unknown>>, fill: FillRequest) {
    this.#source = source
    this.#defaults = defaults
    this.#fill = fill
  }

  get name(): string {
    return this.#source.name
  }

  shareBefore(offset: number): number | undefined {
    return this.#source.shareBefore(offset)
  }

  fingerprint(): Promise<string> {
    return this.#source.fingerprint()
  }

  digestAt(mark: LineMark): Promise<string | undefined> {
    return this.#source.digestAt(mark)
  }

  async *read(from: InputMark): AsyncGenerator<BatchItem> {
    for await (const item of this.#source.read(from)) yield await this.#translated(item)
  }

  async #translated(item: BatchItem): Promise<Translated> {
    if (item.error) return item
    const { request, ...rest } = item
    try {
      const understood = plain.understand({ ...this.#defaults, ...request })
      return { ...rest, understood, request: await this.#fill(understood.request) }
    } catch (error) {
      return { ...rest, error: RankmillError.from(error) }
    }
  }
}

/** Times are left out: the same request gives the same line. */
export const batchFormat: BatchFormat = {
  encode({ item, outcome }) {
    const { understood } = item as Translated
    if (outcome.error || !understood) return formatBatchLine(item, outcome, false)
    try {
      checkWhole(outcome.result, understood.wholeDocuments)
    } catch (error) {
      return formatBatchLine(item, { error: RankmillError.from(error) }, false)
    }
    const id = `line-${item.line}`
    const said = { id: item.customId ?? id, created: 0 }
    const { timings_ms: _, ...body } = understood.answer(outcome.result, said) as Record<string, unknown>
    const response = { status_code: 200, request_id: id, body }
    return `${JSON.stringify({ id, custom_id: item.customId, response, error: null })}\n`
  },
  recover: readOutputLine,
}
