/** What a batch run reads: items one after another, from any place on, and a fingerprint that tells inputs apart. */
import { RankmillError } from '../../shared/errors.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { NO_CONTENT } from '../lines/digest-chain.js'
import { type LineMark, START } from '../lines/line-reader.js'

/** One request of the input, or what is wrong with it. */
export type BatchItem = {
  /** Place in the input, from 1, rising; a file's line number. */
  readonly line: number
  /** Offset after which reading goes on. */
  readonly end: number
  /** Of all that was read up to `end`: kept with the mark, it tells a later run whether the input is still the same. */
  readonly digest: string
  /** Size in the input: what the item costs in memory while it is under way. */
  readonly bytes: number
  readonly customId: string | null
  /** Ids of the documents, where the request does not give them all. */
  readonly docIds?: readonly string[] | undefined
} & (
  | { readonly request: RerankInput; readonly error?: undefined }
  | { readonly error: RankmillError; readonly request?: undefined }
)

export type BatchOutcome =
  | { readonly result: RerankResult; readonly error?: undefined }
  | { readonly error: RankmillError; readonly result?: undefined }

/** Where a run goes on, and the digest of what it read before. */
export interface InputMark extends LineMark {
  readonly digest: string
}

export const INPUT_START: InputMark = { ...START, digest: NO_CONTENT }

/**
 * An input is compared in two ways. `fingerprint` costs little and need not see every byte: it refuses another file at
 * once. Certainty comes from the digests: each item carries that of all that was read up to its end, a run keeps the one of
 * its mark, and `digestAt` tells what the digest at that place is today. What lies beyond the mark is read only now.
 */
export interface BatchSource {
  readonly name: string
  /** How much of the input lies before an offset, 0 to 1; undefined where its size is not known. */
  shareBefore(offset: number): number | undefined
  /** Changes with the content, and need not read all of it: a file's size and 2 MB of samples, a stream's first 64 KiB. */
  fingerprint(): Promise<string>
  /**
   * Reads everything up to a mark: where the input is the same as when an item with `line` and `end` of the mark was read,
   * this is that item's `digest`. undefined where the input is shorter. To be called before `read`, which goes on at the
   * mark even where the input can be read only once.
   *
   * @throws RankmillError `input_unreadable`
   */
  digestAt(mark: LineMark): Promise<string | undefined>
  /** The items after a mark, in order. @throws RankmillError `input_unreadable` */
  read(from: InputMark): AsyncIterable<BatchItem>
}

export function unreadable(name: string, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const message = `${name}: ${error instanceof Error ? error.message : String(error)}`
  return new RankmillError('input_unreadable', message, { param: name }, { cause: error })
}
