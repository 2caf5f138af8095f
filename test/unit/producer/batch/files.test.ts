import { createReadStream } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CustomIdFile, CustomIds } from '../../../../producer/batch/custom-ids.js'
import { LatencyCounts } from '../../../../producer/batch/latency-counts.js'
import { OutputOnDisk } from '../../../../producer/batch/output-file.js'
import { compressedFrame, compressionOf, decompressed } from '../../../../producer/lines/compression.js'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-files-'))
})
afterEach(() => rm(folder, { recursive: true }))

async function contentOf(path: string): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of decompressed(createReadStream(path), compressionOf(path))) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

describe.each(['out.jsonl', 'out.jsonl.gz', 'out.jsonl.zst'])('%s', (name) => {
  it('is what was appended, frame after frame, and can be cut back to a length it had', async () => {
    const path = join(folder, name)
    const output = await OutputOnDisk.open(path, 0)
    await output.append(Buffer.from('first\n'))
    const { length } = output
    await output.append(Buffer.from('second\n'.repeat(1000)))
    await output.close()
    expect(await contentOf(path)).toBe(`first\n${'second\n'.repeat(1000)}`)

    const again = await OutputOnDisk.open(path, length)
    await again.append(Buffer.from('third\n'))
    await again.close()
    expect(await contentOf(path)).toBe('first\nthird\n')
  })

  it('that ends too early is an error, not an end', async () => {
    const path = join(folder, name)
    if (compressionOf(name) === 'none') return
    const frame = await compressedFrame(Buffer.from('some text that compresses\n'.repeat(100)), compressionOf(name))
    await writeFile(path, frame.subarray(0, frame.length - 9))
    await expect(contentOf(path)).rejects.toThrow()
  })
})

it('a half-written last line is cut off, and whole lines after the checkpoint are kept', async () => {
  const path = join(folder, 'out.jsonl')
  await writeFile(path, 'old\nkept\nalso kept\nhalf')
  const seen: string[] = []
  const output = await OutputOnDisk.open(path, 4, (line) => seen.push(line) > 0)
  await output.close()
  expect(seen).toEqual(['kept', 'also kept'])
  expect(await readFile(path, 'utf8')).toBe('old\nkept\nalso kept\n')
})

it('reads gzip of several members, as `cat a.gz b.gz` makes them', async () => {
  const path = join(folder, 'in.gz')
  await writeFile(path, Buffer.concat([gzipSync('a\n'), gzipSync('b\n')]))
  expect(await contentOf(path)).toBe('a\nb\n')
})

describe('custom ids', () => {
  it('are known again, however many there are', () => {
    fc.assert(
      fc.property(fc.array(fc.string(), { maxLength: 300 }), (ids) => {
        const seen = new Set<string>()
        const custom = new CustomIds()
        for (const id of ids) {
          expect(custom.add(id)).toBe(!seen.has(id))
          seen.add(id)
        }
      }),
    )
    const many = new CustomIds()
    for (let i = 0; i < 100_000; i++) expect(many.add(`id ${i}`)).toBe(true)
    for (let i = 0; i < 100_000; i += 997) expect(many.add(`id ${i}`)).toBe(false)
  })

  it('come back from the file as far as the checkpoint says', async () => {
    const first = await CustomIdFile.open(join(folder, 'ids.1'), undefined, 0, new CustomIds())
    await first.append(['a', 'b', 'c'])
    await first.close()
    const custom = new CustomIds()
    const second = await CustomIdFile.open(join(folder, 'ids.2'), join(folder, 'ids.1'), 2, custom)
    expect(['a', 'b', 'c'].map((id) => custom.add(id))).toEqual([false, false, true])
    await second.append(['c'])
    expect(second.count).toBe(3)
    await second.close()
    const third = new CustomIds()
    await (await CustomIdFile.open(join(folder, 'ids.3'), join(folder, 'ids.2'), 3, third)).close()
    expect(['a', 'b', 'c', 'd'].map((id) => third.add(id))).toEqual([false, false, false, true])
  })
})

it('percentiles are within their bucket of the exact ones, and outlive saving', () => {
  const times = Array.from({ length: 1000 }, (_, i) => (i + 1) ** 1.5)
  const counts = new LatencyCounts()
  for (const time of times) counts.add(time)
  const saved = new LatencyCounts(JSON.parse(JSON.stringify(counts)))
  for (const share of [0.5, 0.95, 0.99]) {
    const exact = times[Math.ceil(share * 1000) - 1] ?? 0
    expect(Math.abs((saved.percentile(share) ?? 0) / exact - 1)).toBeLessThan(0.03)
  }
  expect(new LatencyCounts().percentile(0.5)).toBeNull()
})
