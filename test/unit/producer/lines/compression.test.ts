import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Compression, compressedFrame, decompressed } from '../../../../producer/lines/compression.js'

async function* inChunks(content: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < content.length; at += size) yield content.subarray(at, at + size)
}

async function plain(content: Buffer, compression: Compression, size = 1 << 16): Promise<string> {
  const parts: Buffer[] = []
  for await (const part of decompressed(inChunks(content, size), compression)) parts.push(part)
  return Buffer.concat(parts).toString()
}

const zeros = (count: number) => Buffer.alloc(count)

describe('gzip', () => {
  it('may have zero bytes between its members and behind them, wherever the chunks are cut', async () => {
    const content = Buffer.concat([
      gzipSync('one\n'),
      zeros(3),
      gzipSync('two\n'),
      gzipSync('three\n'),
      zeros(70_000),
      gzipSync('four\n'),
      zeros(1),
    ])
    for (const size of [1, 2, 3, 23, 24, 25, 1000, 1 << 20])
      expect(await plain(content, 'gzip', size)).toBe('one\ntwo\nthree\nfour\n')
  })

  it('is refused where anything else follows a member, and where it is damaged or cut off', async () => {
    const member = gzipSync('some text '.repeat(1000))
    const damaged = Buffer.from(member)
    damaged[damaged.length - 6] = (damaged.at(-6) ?? 0) ^ 1
    for (const content of [
      Buffer.concat([member, Buffer.from('x\n')]),
      Buffer.concat([member, zeros(5), Buffer.from('x\n')]),
      Buffer.concat([zeros(5), member]),
      member.subarray(0, -3),
      Buffer.concat([member, zeros(2), member.subarray(0, -3)]),
      damaged,
      zeros(0),
    ]) {
      for (const size of [1, 50, 1 << 20]) await expect(plain(content, 'gzip', size)).rejects.toThrow()
    }
  })
})

describe('Zstandard', () => {
  /** `printf 'invoice 250\nqueue\n' | zstd --check` */
  const CHECKED = Buffer.from('KLUv/QRYkQAAaW52b2ljZSAyNTAKcXVldWUK0VoiPg==', 'base64')

  /** A frame of `blocks` times 128 KiB of zeros, 4 bytes each. */
  function swelling(blocks: number): Buffer {
    const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38])
    const parts = [header]
    for (let i = 1; i <= blocks; i++) {
      const block = ((1 << 17) << 3) | (1 << 1) | (i === blocks ? 1 : 0)
      parts.push(Buffer.from([block & 0xff, (block >> 8) & 0xff, block >> 16, 0]))
    }
    return Buffer.concat(parts)
  }

  it('is what was compressed, frame after frame and with skippable ones between, wherever the chunks are cut', async () => {
    const skippable = Buffer.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3])
    await fc.assert(
      fc.asyncProperty(fc.array(fc.string({ maxLength: 50 })), fc.integer({ min: 1, max: 40 }), async (texts, size) => {
        const frames = await Promise.all(texts.map((text) => compressedFrame(Buffer.from(text), 'zstd')))
        const content = Buffer.concat([CHECKED, ...frames.flatMap((frame) => [frame, skippable])])
        const expected = `invoice 250\nqueue\n${texts.map((text) => Buffer.from(text).toString()).join('')}`
        expect(await plain(content, 'zstd', size)).toBe(expected)
      }),
      { numRuns: 30 },
    )
  })

  it('is refused where one bit of it is another, or its end is missing', async () => {
    for (let bit = 0; bit < CHECKED.length * 8; bit++) {
      const damaged = Buffer.from(CHECKED)
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      const read = await plain(damaged, 'zstd').catch(() => 'refused')
      // Bits that say nothing, as that of the reserved one: the text is then as it was.
      expect(['refused', 'invoice 250\nqueue\n']).toContain(read)
    }
    for (let length = 0; length < CHECKED.length; length++)
      await expect(plain(CHECKED.subarray(0, length), 'zstd')).rejects.toThrow()
    await expect(plain(Buffer.concat([CHECKED, zeros(4)]), 'zstd')).rejects.toThrow()
  })

  it('is unpacked as it is read: 44 kB that stand for 1.4 GB come in small pieces', async () => {
    const content = swelling(11_000)
    let read = 0
    async function* counting() {
      for await (const chunk of inChunks(content, 4096)) {
        read += chunk.length
        yield chunk
      }
    }
    let pieces = 0
    for await (const piece of decompressed(counting(), 'zstd')) {
      expect(piece.length).toBeLessThanOrEqual(1 << 17)
      if (++pieces === 100) break
    }
    expect(read).toBe(4096)
  })
})
