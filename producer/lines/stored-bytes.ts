/** What can be read again, from any place on: a file of this machine, an object of a store. */
export interface StoredBytes {
  readonly name: string
  /** Bytes, compressed where the file is. */
  readonly size: number
  /** Changes with the content, and need not read all of it. */
  fingerprint(): Promise<string>
  /** Bytes from `start` on, up to and without `end`. */
  read(start: number, end?: number): AsyncIterable<Buffer>
}
