/** Bodies that come compressed: gzip and Zstandard. What they hold counts against the limit, not what was sent. */
import { Readable } from 'node:stream'
import { decompressed } from '../producer/lines/compression.js'
import { RankmillError } from '../shared/errors.js'

type Payload = Readable & { receivedEncodedLength?: number }

/** @throws RankmillError `unsupported_media_type` */
export function decodedBody(encoding: string | undefined, payload: Payload): Payload {
  if (encoding === undefined || encoding === 'identity') return payload
  if (encoding !== 'gzip' && encoding !== 'x-gzip' && encoding !== 'zstd') {
    throw new RankmillError('unsupported_media_type', `Content-Encoding: must be gzip or zstd, got "${encoding}"`)
  }
  const compression = encoding === 'zstd' ? 'zstd' : 'gzip'
  const decoded: Payload = Readable.from(named(decompressed(counted(), compression), compression), {
    objectMode: false,
  })
  decoded.receivedEncodedLength = 0
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of payload) {
      decoded.receivedEncodedLength = (decoded.receivedEncodedLength ?? 0) + (chunk as Buffer).length
      yield chunk as Buffer
    }
  }
  return decoded
}

async function* named(bytes: AsyncIterable<Buffer>, compression: string): AsyncGenerator<Buffer> {
  try {
    yield* bytes
  } catch (error) {
    throw new RankmillError('invalid_request', `body: not ${compression}: ${(error as Error).message}`, {
      param: 'body',
    })
  }
}
