/** Requests from JSON lines, compressed or not. */
import { type Content, openContent } from '../lines/content.js'
import { DigestChain, NO_CONTENT } from '../lines/digest-chain.js'
import { type LineMark, readLines, START } from '../lines/line-reader.js'
import { mistakenFormat } from '../lines/mistaken-format.js'
import { mistakenLines, parseBatchLine } from './batch-line.js'
import { type BatchItem, type BatchSource, type InputMark, unreadable } from './batch-source.js'

/** A file, or a stream that can be read once. */
export class LineSource implements BatchSource {
  readonly name: string
  readonly #content: Content
  readonly #maxLineBytes: number

  /**
   * @param input a path, `-` for standard input, or a stream of plain bytes
   * @throws RankmillError `input_unreadable`, also where its beginning is of another kind than lines of requests
   */
  static async open(input: string | AsyncIterable<Buffer>, maxLineBytes: number): Promise<LineSource> {
    let name = typeof input === 'string' ? input : 'standard input'
    try {
      const content = await openContent(input)
      name = content.name
      const head = await content.head()
      const mistake = mistakenFormat(name, 'jsonl', head) ?? mistakenLines(head)
      if (mistake !== undefined) throw new Error(mistake)
      return new LineSource(content, maxLineBytes)
    } catch (error) {
      throw unreadable(name, error)
    }
  }

  private constructor(content: Content, maxLineBytes: number) {
    this.name = content.name
    this.#content = content
    this.#maxLineBytes = maxLineBytes
  }

  shareBefore(offset: number): number | undefined {
    return this.#content.shareBefore(offset)
  }

  fingerprint(): Promise<string> {
    return this.#content.fingerprint().catch((error) => {
      throw unreadable(this.name, error)
    })
  }

  async digestAt({ offset }: LineMark): Promise<string | undefined> {
    if (offset === 0) return NO_CONTENT
    try {
      const chain = new DigestChain()
      let last = { end: 0, digest: undefined as string | undefined }
      for await (const line of readLines(this.#content.read(0, offset), this.#maxLineBytes, START, chain)) last = line
      return last.end === offset ? last.digest : undefined
    } catch (error) {
      throw unreadable(this.name, error)
    }
  }

  async *read(from: InputMark): AsyncGenerator<BatchItem> {
    try {
      const chain = new DigestChain(from.digest)
      for await (const line of readLines(this.#content.read(from.offset), this.#maxLineBytes, from, chain)) {
        const item = parseBatchLine(line, this.#maxLineBytes)
        if (item) yield item
      }
    } catch (error) {
      throw unreadable(this.name, error)
    }
  }
}
