import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Line, readLines } from '../../../../producer/lines/line-reader.js'

async function* inChunks(content: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  let at = 0
  for (let i = 0; at < content.length; i++) {
    const size = Math.max(1, sizes[i % sizes.length] ?? 1)
    yield content.subarray(at, at + size)
    at += size
  }
}

async function read(content: Buffer, sizes: readonly number[] = [1 << 16], limit = 1 << 20): Promise<Line[]> {
  const lines: Line[] = []
  for await (const line of readLines(inChunks(content, sizes), limit)) lines.push(line)
  return lines
}

const texts = (lines: readonly Line[]) => lines.map(({ bytes }) => bytes?.toString())

describe('lines of a stream', () => {
  it('are the same wherever the chunks are cut, inside a character too', async () => {
    const line = fc
      .string({ unit: 'grapheme', maxLength: 30 })
      .map((text) => text.replace(/[\r\n\uFEFF]/g, '').toWellFormed())
    const ends = fc.constantFrom('\n', '\r\n')
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(line, ends), { minLength: 1, maxLength: 20 }),
        fc.array(fc.nat(9), { minLength: 1, maxLength: 5 }),
        fc.boolean(),
        async (parts, sizes, withBom) => {
          const content = Buffer.from((withBom ? '\uFEFF' : '') + parts.map(([text, end]) => text + end).join(''))
          expect(texts(await read(content, sizes))).toEqual(parts.map(([text]) => text))
        },
      ),
    )
  })

  it('end at the offset that reading goes on from', async () => {
    const lineText = fc.string({ maxLength: 12 }).map((text) => text.replace(/[\r\n]/g, ''))
    await fc.assert(
      fc.asyncProperty(fc.array(lineText, { minLength: 1, maxLength: 12 }), fc.nat(), async (parts, seed) => {
        const content = Buffer.from(parts.join('\n'))
        const lines = await read(content, [3])
        const from = lines[seed % Math.max(1, lines.length)]
        if (!from) return
        const rest: Line[] = []
        const mark = { line: from.number, offset: from.end }
        for await (const line of readLines(inChunks(content.subarray(from.end), [5]), 1 << 20, mark)) rest.push(line)
        expect(rest).toEqual(lines.slice(from.number))
      }),
    )
  })

  it('may lack the last end, and may be empty', async () => {
    expect(texts(await read(Buffer.from('a\n\n\r\nb')))).toEqual(['a', '', '', 'b'])
    expect(texts(await read(Buffer.from('')))).toEqual([])
  })

  it('longer than the limit are passed over, and counted', async () => {
    const lines = await read(Buffer.from(`ok\n${'x'.repeat(5000)}\nafter\n`), [100], 1000)
    expect(texts(lines)).toEqual(['ok', undefined, 'after'])
    expect(lines[1]).toMatchObject({ number: 2, length: 5000, end: 5004 })
  })

  it('of 50 MB are read whole', async () => {
    const [line] = await read(Buffer.concat([Buffer.alloc(50_000_000, 'y'), Buffer.from('\n')]), [1 << 16], 64_000_000)
    expect(line?.bytes?.length).toBe(50_000_000)
  })
})
