/** Compressed files by their name's ending: `.gz`, `.zst`, anything else as it is. */
import { promisify } from 'node:util'
import { createGunzip, gzip } from 'node:zlib'
import { compress, init } from '@bokuweb/zstd-wasm'
import { Decompress } from 'fzstd'

export type Compression = 'none' | 'gzip' | 'zstd'

const gzipped = promisify(gzip)
const ZSTD_LEVEL = 3
let zstdReady: Promise<void> | undefined

export function compressionOf(name: string): Compression {
  if (name.endsWith('.gz')) return 'gzip'
  return name.endsWith('.zst') ? 'zstd' : 'none'
}

/**
 * The plain bytes of a stream. Concatenated members and frames are one content, as gzip and zstd have it.
 *
 * @throws Error where the content is damaged or ends too early
 */
export function decompressed(bytes: AsyncIterable<Buffer>, compression: Compression): AsyncIterable<Buffer> {
  switch (compression) {
    case 'none':
      return bytes
    case 'gzip':
      return gunzipped(bytes)
    case 'zstd':
      return unzstd(bytes)
  }
}

/** One member or frame, complete in itself: a file of them can be cut after any and stays readable. */
export async function compressedFrame(content: Buffer, compression: Compression): Promise<Buffer> {
  if (compression === 'none') return content
  if (compression === 'gzip') return gzipped(content)
  zstdReady ??= init()
  await zstdReady
  return Buffer.from(compress(content, ZSTD_LEVEL))
}

async function* gunzipped(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const gunzip = createGunzip()
  const feed = (async () => {
    for await (const chunk of bytes) {
      if (gunzip.destroyed) return
      if (!gunzip.write(chunk)) await Promise.race([onceEvent(gunzip, 'drain'), onceEvent(gunzip, 'close')])
    }
    gunzip.end()
  })().catch((error) => void gunzip.destroy(error as Error))
  try {
    yield* gunzip as AsyncIterable<Buffer>
  } finally {
    gunzip.destroy()
    await feed
  }
}

function onceEvent(emitter: NodeJS.EventEmitter, event: string): Promise<void> {
  return new Promise((resolve) => emitter.once(event, () => resolve()))
}

async function* unzstd(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const ready: Buffer[] = []
  const decompress = new Decompress((chunk) => void ready.push(Buffer.from(chunk)))
  let isEmpty = true
  for await (const chunk of bytes) {
    isEmpty = false
    decompress.push(chunk)
    yield* ready.splice(0)
  }
  if (isEmpty) throw new Error('not Zstandard data: it is empty')
  decompress.push(new Uint8Array(0), true)
  yield* ready.splice(0)
}
