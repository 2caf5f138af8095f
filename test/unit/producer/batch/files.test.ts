import { createReadStream } from 'node:fs'
import { copyFile, mkdtemp, open, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CustomIdFile, CustomIds } from '../../../../producer/batch/custom-ids.js'
import { LatencyCounts } from '../../../../producer/batch/latency-counts.js'
import { checkedOutput, keepWholeLines } from '../../../../producer/batch/output-check.js'
import { BLOCK_BYTES, OutputDigest } from '../../../../producer/batch/output-digest.js'
import { OutputOnDisk } from '../../../../producer/batch/output-file.js'
import { compressedFrame, compressionOf, decompressed } from '../../../../producer/lines/compression.js'
import { RankmillError } from '../../../../shared/errors.js'

/** The claim is this runner's. */
const HELD = { check: async () => undefined }

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
    const compression = compressionOf(name)
    const output = await OutputOnDisk.open(path, compression, { digest: new OutputDigest(), lines: 0 }, HELD)
    await output.append(Buffer.from('first\n'))
    const before = await output.record()
    await output.append(Buffer.from('second\n'.repeat(1000)))
    await output.close()
    expect(await contentOf(path)).toBe(`first\n${'second\n'.repeat(1000)}`)

    const known = { digest: await checkedOutput(path, before), lines: before.lines }
    const again = await OutputOnDisk.open(path, compression, known, HELD)
    await again.append(Buffer.from('third\n'))
    await again.close()
    expect(await contentOf(path)).toBe('first\nthird\n')
    expect(again.lines).toBe(2)
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
  const digest = new OutputDigest()
  digest.update(Buffer.from('old\n'))
  expect(await keepWholeLines(path, digest, (line) => seen.push(line) > 0)).toBe(2)
  const output = await OutputOnDisk.open(path, 'none', { digest, lines: 3 }, HELD)
  await output.close()
  expect(seen).toEqual(['kept', 'also kept'])
  expect(await readFile(path, 'utf8')).toBe('old\nkept\nalso kept\n')
})

it('is left as it is where the claim turns out to be lost, and a copy leaves the file that a sleeper has open', async () => {
  const path = join(folder, 'out.jsonl')
  await writeFile(path, 'old\nof the next\n')
  const digest = new OutputDigest()
  digest.update(Buffer.from('old\n'))
  const lost = {
    check: async () => {
      throw new RankmillError('output_in_use', 'another runner took over')
    },
  }
  await expect(OutputOnDisk.open(path, 'none', { digest, lines: 1 }, lost)).rejects.toMatchObject({
    code: 'output_in_use',
  })
  expect(await readFile(path, 'utf8')).toBe('old\nof the next\n')

  const sleeper = await open(path, 'r+')
  const copied = { ...HELD, copy: join(folder, 'copy.2') }
  const output = await OutputOnDisk.open(path, 'none', { digest, lines: 1 }, copied)
  await sleeper.write('late', 4)
  await sleeper.close()
  await output.append(Buffer.from('new\n'))
  await output.close()
  expect(await readFile(path, 'utf8')).toBe('old\nnew\n')
})

it('reads gzip of several members, as `cat a.gz b.gz` makes them', async () => {
  const path = join(folder, 'in.gz')
  await writeFile(path, Buffer.concat([gzipSync('a\n'), gzipSync('b\n')]))
  expect(await contentOf(path)).toBe('a\nb\n')
})

describe('what is known of an output', () => {
  it('is the same whether it was hashed at once, in pieces, or taken up again in between', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(3 * BLOCK_BYTES), { maxLength: 6 }), fc.nat(5), (lengths, resumeAt) => {
        const content = Buffer.alloc(
          lengths.reduce((sum, length) => sum + length, 0),
          'what the run wrote\n',
        )
        const whole = new OutputDigest()
        whole.update(content)
        let pieces = new OutputDigest()
        let at = 0
        lengths.forEach((length, i) => {
          if (i === resumeAt) {
            const state = pieces.state()
            pieces = OutputDigest.resume(state, content.subarray(at - (at % BLOCK_BYTES), at))
          }
          pieces.update(content.subarray(at, at + length))
          at += length
        })
        expect(pieces.state()).toEqual(whole.state())
      }),
      { numRuns: 10 },
    )
  })

  it.each([
    ['gone', async (path: string) => rm(path), 'is gone; the run had written 9 bytes'],
    ['cut off', async (path: string) => truncate(path, 4), 'has 4 bytes, of 9 that the run wrote'],
    ['emptied and grown', async (path: string) => writeFile(path, '\0'.repeat(9)), 'has other content in its first 9'],
    ['another of the same length', async (path: string) => writeFile(path, 'one\ntwO\n\n'), 'has other content'],
  ])('is missed where the file is %s', async (_, damage, said) => {
    const path = join(folder, 'out.jsonl')
    const output = await OutputOnDisk.open(path, 'none', { digest: new OutputDigest(), lines: 0 }, HELD)
    await output.append(Buffer.from('one\ntwo\n\n'))
    const record = await output.record()
    await output.close()
    await damage(path)
    await expect(checkedOutput(path, record)).rejects.toMatchObject({
      code: 'output_changed',
      message: expect.stringContaining(said),
    })
  })

  it('is found again in a copy, and where more was written behind it', async () => {
    const path = join(folder, 'out.jsonl')
    const output = await OutputOnDisk.open(path, 'none', { digest: new OutputDigest(), lines: 0 }, HELD)
    await output.append(Buffer.from('one\n'))
    const record = await output.record()
    await output.append(Buffer.from('two\n'))
    await output.close()
    await copyFile(path, `${path}.copy`)
    await rename(`${path}.copy`, path)
    expect((await checkedOutput(path, record)).bytes).toBe(4)
  })

  it.each([
    ['removed', async (path: string) => rm(path)],
    ['replaced', async (path: string) => rename(`${path}.other`, path)],
    ['emptied', async (path: string) => truncate(path, 0)],
    ['written by another', async (path: string) => writeFile(path, 'more\n', { flag: 'a' })],
  ])('ends the writing where the file is %s meanwhile', async (_, damage) => {
    const path = join(folder, 'out.jsonl')
    await writeFile(`${path}.other`, 'one\n')
    const output = await OutputOnDisk.open(path, 'none', { digest: new OutputDigest(), lines: 0 }, HELD)
    await output.append(Buffer.from('one\n'))
    await damage(path)
    const left = await readFile(path).catch(() => undefined)
    await expect(output.append(Buffer.from('two\n'))).rejects.toMatchObject({ code: 'output_changed' })
    expect(await readFile(path).catch(() => undefined)).toEqual(left)
    await output.close()
  })
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
