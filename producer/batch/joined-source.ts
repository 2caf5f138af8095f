/** Several inputs one after another, as one. */
import { RankmillError } from '../../shared/errors.js'
import { DigestChain, NO_CONTENT } from '../lines/digest-chain.js'
import type { LineMark } from '../lines/line-reader.js'
import { type BatchItem, type BatchSource, INPUT_START, type InputMark } from './batch-source.js'

/** What was read of the parts before one. */
interface Base {
  readonly line: number
  readonly offset: number
}

export class JoinedSource implements BatchSource {
  readonly name: string
  readonly #parts: readonly BatchSource[]
  /** Where each part that was come to begins. */
  readonly #bases: Base[] = []
  readonly #items: AsyncGenerator<BatchItem>
  #next: IteratorResult<BatchItem> | undefined

  constructor(parts: readonly BatchSource[]) {
    const [first] = parts
    this.name = parts.length > 1 ? `${first?.name} and ${parts.length - 1} more` : (first?.name ?? '')
    this.#parts = parts
    this.#items = this.#all()
  }

  shareBefore(offset: number): number | undefined {
    const part = this.#bases.findLastIndex((base) => base.offset <= offset)
    const within = this.#parts[part]?.shareBefore(offset - (this.#bases[part]?.offset ?? 0)) ?? 0
    return part < 0 ? 0 : (part + within) / this.#parts.length
  }

  async fingerprint(): Promise<string> {
    const chain = new DigestChain()
    for (const part of this.#parts) chain.update(`${await part.fingerprint()} `)
    return chain.link()
  }

  async digestAt({ line }: LineMark): Promise<string | undefined> {
    const chain = new DigestChain()
    let last = { line: 0, digest: NO_CONTENT }
    for (let item = await this.#peek(); item && item.line <= line; item = await this.#peek()) {
      last = { line: item.line, digest: linked(chain, item) }
      this.#next = undefined
    }
    return last.line === line ? last.digest : undefined
  }

  async *read(from: InputMark): AsyncGenerator<BatchItem> {
    const chain = new DigestChain(from.digest)
    try {
      for (let item = await this.#peek(); item; item = await this.#peek()) {
        this.#next = undefined
        if (item.line > from.line) yield { ...item, digest: linked(chain, item) }
      }
    } finally {
      await this.#items.return(undefined)
    }
  }

  async #peek(): Promise<BatchItem | undefined> {
    this.#next ??= await this.#items.next()
    return this.#next.done ? undefined : this.#next.value
  }

  /** Lines are counted on from part to part; what is wrong with one is said with its file and its number there. */
  async *#all(): AsyncGenerator<BatchItem> {
    let base: Base = { line: 0, offset: 0 }
    for (const part of this.#parts) {
      this.#bases.push(base)
      let last: Base = base
      for await (const item of part.read(INPUT_START)) {
        last = { line: base.line + item.line, offset: base.offset + item.end }
        const placed = { ...item, line: last.line, end: last.offset }
        yield item.error ? { ...placed, request: undefined, error: named(part, item.error) } : (placed as BatchItem)
      }
      base = last
    }
  }
}

function linked(chain: DigestChain, { digest }: BatchItem): string {
  chain.update(digest)
  return chain.link()
}

function named({ name }: BatchSource, error: RankmillError): RankmillError {
  return new RankmillError(error.code, `${name}: ${error.message}`, error.details, { cause: error })
}
