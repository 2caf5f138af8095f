/** Text as the file that a reader reads. */
import { Readable } from 'node:stream'
import type { Source } from '../../../producer/lines/text-lines.js'

/** @param chunkBytes size of the pieces in which the bytes come */
export function sourceOf(text: string | Uint8Array, chunkBytes = 7, name = 'file'): Source {
  const bytes = Buffer.from(text)
  const chunks = Array.from({ length: Math.ceil(bytes.length / chunkBytes) }, (_, i) =>
    bytes.subarray(i * chunkBytes, (i + 1) * chunkBytes),
  )
  return { name, chunks: Readable.from(chunks) }
}

export async function listOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}
