import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type BatchItem, INPUT_START, type InputMark } from '../../../../producer/batch/batch-source.js'
import { LineSource } from '../../../../producer/batch/line-source.js'

const LIMIT = 1 << 20
const LINES = Array.from({ length: 50 }, (_, i) =>
  i % 7 === 3 ? '' : JSON.stringify({ id: `r${i}`, query: `query ${i}`, documents: ['a'.repeat(i * 10)] }),
)
const TEXT = `${LINES.join('\n')}\n`

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-source-'))
})
afterEach(() => rm(folder, { recursive: true }))

async function itemsOf(source: LineSource, from: InputMark = INPUT_START): Promise<BatchItem[]> {
  const items: BatchItem[] = []
  for await (const item of source.read(from)) items.push(item)
  return items
}

/** A text as a file, a compressed file, and a stream. */
const KINDS = {
  'a file': async (text: string) => {
    await writeFile(join(folder, 'in.jsonl'), text)
    return LineSource.open(join(folder, 'in.jsonl'), LIMIT)
  },
  'a compressed file': async (text: string) => {
    await writeFile(join(folder, 'in.jsonl.gz'), gzipSync(text))
    return LineSource.open(join(folder, 'in.jsonl.gz'), LIMIT)
  },
  'a stream': async (text: string) => {
    async function* chunks() {
      for (let i = 0; i < text.length; i += 777) yield Buffer.from(text.slice(i, i + 777))
    }
    return LineSource.open(chunks(), LIMIT)
  },
}

describe.each(Object.entries(KINDS))('%s', (_, open) => {
  const markAt = (items: readonly BatchItem[], i: number): InputMark => {
    const { line, end, digest } = items[i] as BatchItem
    return { line, offset: end, digest }
  }

  it('goes on after any item with the items and digests that follow it', async () => {
    const all = await itemsOf(await open(TEXT))
    expect(all).toHaveLength(43)
    expect(new Set(all.map(({ digest }) => digest)).size).toBe(43)
    for (const i of [0, 20, 41, 42]) {
      const mark = markAt(all, i)
      const source = await open(TEXT)
      expect(await source.digestAt(mark)).toBe(mark.digest)
      expect(await itemsOf(source, mark)).toEqual(all.slice(i + 1))
      expect(await itemsOf(await open(TEXT), mark)).toEqual(all.slice(i + 1))
    }
  })

  it('is another one with any byte changed before the mark, however far from what is sampled', async () => {
    const mark = markAt(await itemsOf(await open(TEXT)), 30)
    for (const at of [30, 1000, mark.offset - 3]) {
      const changed = `${TEXT.slice(0, at)}#${TEXT.slice(at + 1)}`
      expect(await (await open(changed)).digestAt(mark)).not.toBe(mark.digest)
    }
    const behind = `${TEXT.slice(0, mark.offset)}${TEXT.slice(mark.offset).replaceAll('a', 'b')}`
    expect(await (await open(behind)).digestAt(mark)).toBe(mark.digest)
    expect(await (await open(TEXT.slice(0, mark.offset - 1))).digestAt(mark)).toBeUndefined()
  })
})
