/** gzip as other readers have it: members one after another, with zero bytes between them or after the last. */
import { promisify } from 'node:util'
import { createGunzip, type Gunzip, gzip } from 'node:zlib'

/** One member. */
export const gzipped: (content: Uint8Array) => Promise<Buffer> = promisify(gzip)

/**
 * Node's own stream ends, as if all were well, at a zero byte after a member: so each stream reads up to there, and where
 * more follows than zeros another one goes on.
 *
 * @throws Error where a member is damaged, ends too early, or is none
 */
export async function* gunzipped(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  const input = new Unread(bytes[Symbol.asyncIterator]())
  try {
    do yield* membersOf(input)
    while (await input.skipZeros())
  } finally {
    await input.close()
  }
}

async function* membersOf(input: Unread): AsyncGenerator<Buffer> {
  const gunzip = createGunzip()
  const feeding = feed(gunzip, input).catch((error) => void gunzip.destroy(error as Error))
  try {
    yield* gunzip as AsyncIterable<Buffer>
  } finally {
    gunzip.destroy()
    await feeding
  }
}

/** Hands over chunk after chunk, each when the one before was taken, and gives back what the stream left. */
async function feed(gunzip: Gunzip, input: Unread): Promise<void> {
  let wake: () => void = () => undefined
  gunzip.once('close', () => wake())
  while (!gunzip.destroyed) {
    const chunk = await input.next()
    if (chunk === undefined) {
      gunzip.end()
      return
    }
    const before = gunzip.bytesWritten
    await new Promise<void>((resolve) => {
      wake = resolve
      gunzip.write(chunk, () => resolve())
    })
    const taken = gunzip.bytesWritten - before
    if (taken < chunk.length) {
      input.giveBack(chunk.subarray(taken))
      return
    }
  }
}

/** Chunks, of which the last can be given back. */
class Unread {
  readonly #chunks: AsyncIterator<Uint8Array>
  #back: Uint8Array | undefined

  constructor(chunks: AsyncIterator<Uint8Array>) {
    this.#chunks = chunks
  }

  async next(): Promise<Uint8Array | undefined> {
    const back = this.#back
    this.#back = undefined
    if (back) return back
    const next = await this.#chunks.next()
    return next.done ? undefined : next.value
  }

  giveBack(chunk: Uint8Array): void {
    if (chunk.length > 0) this.#back = chunk
  }

  /** @returns whether anything follows them */
  async skipZeros(): Promise<boolean> {
    for (let chunk = await this.next(); chunk; chunk = await this.next()) {
      const at = chunk.findIndex((byte) => byte !== 0)
      if (at === -1) continue
      this.giveBack(chunk.subarray(at))
      return true
    }
    return false
  }

  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}
