/**
 * Zstandard, block by block, with the checksums verified: fzstd reads past them, and Node 20 has none of its own (node:zlib
 * from 22.15 on). Two packages, because fzstd reads as a stream and does not write, and zstd-wasm writes and reads whole
 * frames alone, so that a frame of gigabytes would be held at once, twice; so do the native @toondepauw/node-zstd and
 * zstd-codec's simple interface. @mongodb-js/zstd and zstd-napi fetch their library in an install script.
 */
import { compress, init } from '@bokuweb/zstd-wasm'
import { Decompress } from 'fzstd'
import createXxhash from 'xxhash-wasm'
import { FrameParts } from './zstandard-frames.js'

const LEVEL = 3
let compressing: Promise<void> | undefined
let hashing: ReturnType<typeof createXxhash> | undefined

/** One frame. */
export async function zstdCompressed(content: Uint8Array): Promise<Buffer> {
  compressing ??= init()
  await compressing
  return Buffer.from(compress(content, LEVEL))
}

/**
 * The content of frames one after another, in memory that depends on their window and not on what they unpack to.
 *
 * @throws Error where a frame is damaged, ends too early, or is none
 */
export async function* zstdDecompressed(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  hashing ??= createXxhash()
  const { create64 } = await hashing
  const parts = new FrameParts()
  let ready: Buffer[] = []
  let hash = create64()
  const keep = (content: Uint8Array) => {
    if (content.length === 0) return
    hash.update(content)
    ready.push(Buffer.from(content))
  }
  let frame = new Decompress(keep)
  let isEmpty = true
  for await (const chunk of bytes) {
    if (chunk.length > 0) isEmpty = false
    for (const part of parts.cut(chunk)) {
      if (part.beginsFrame) {
        frame = new Decompress(keep)
        hash = create64()
      }
      frame.push(part.bytes, part.endsFrame)
      if (part.checksum !== undefined && part.checksum !== Number(hash.digest() & 0xffffffffn))
        throw new Error('damaged Zstandard data: its content is not what its checksum says')
      yield* ready
      ready = []
    }
  }
  if (isEmpty) throw new Error('not Zstandard data: it is empty')
  if (!parts.isBetweenFrames) throw new Error('Zstandard data ends in the middle of a frame')
}
