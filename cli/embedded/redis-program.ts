/** A server program that can be run, and what its libraries need. */
export interface Server {
  readonly path: string
  readonly version: string
  readonly env: Readonly<Record<string, string>>
  /** Where it came from, if it was not there before. */
  readonly origin?: string
}
