/** Compressed files by their name's ending: `.gz`, `.zst`, anything else as it is. */
import { gunzipped, gzipped } from './gzip.js'
import { zstdCompressed, zstdDecompressed } from './zstandard.js'

export type Compression = 'none' | 'gzip' | 'zstd'

export function compressionOf(name: string): Compression {
  if (name.endsWith('.gz')) return 'gzip'
  return name.endsWith('.zst') ? 'zstd' : 'none'
}

/**
 * The plain bytes of a stream. Concatenated members and frames are one content, as gzip and zstd have it. No more is read
 * than is asked for, and checksums are verified.
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
      return zstdDecompressed(bytes)
  }
}

/** One member or frame, complete in itself: a file of them can be cut after any and stays readable. */
export async function compressedFrame(content: Buffer, compression: Compression): Promise<Buffer> {
  if (compression === 'none') return content
  return compression === 'gzip' ? gzipped(content) : zstdCompressed(content)
}
