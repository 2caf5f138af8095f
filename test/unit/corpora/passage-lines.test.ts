/** What may stand in a file of passages, and how what may not is refused. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { idsOf, passagesOf } from '../../../producer/corpora/passage-lines.js'
import { textLines } from '../../../producer/lines/text-lines.js'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-lines-'))
})
afterAll(() => rm(folder, { recursive: true }))

const LIMITS = { maxDocumentBytes: 100 }
const GOOD = '{"_id":"a","text":"x"}\n'

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

async function file(content: string | Buffer, name = 'in.jsonl'): Promise<string> {
  await writeFile(join(folder, name), content)
  return join(folder, name)
}

const read = async (content: string | Buffer, name?: string) => all(passagesOf(await file(content, name), LIMITS))

it('reads both kinds of passages, whatever the ends of the lines', async () => {
  const lines = [
    '{"_id":"1","title":"T","text":"x","metadata":{}}',
    '',
    '{"id":"2","title":"","text":"y"}',
    '{"id":"3","text":""}',
  ]
  const expected = [
    { id: '1', text: 'T x' },
    { id: '2', text: 'y' },
    { id: '3', text: '' },
  ]
  for (const content of [lines.join('\n'), `\ufeff${lines.join('\r\n')}\r\n`]) {
    const found = await read(content)
    expect(found.map(({ id, text }) => ({ id, text }))).toEqual(expected)
    expect(found.map(({ source }) => source?.replace(/.*:/, ''))).toEqual(['1', '3', '4'])
  }
})

it('keeps characters whole that fall on the edge of a chunk', async () => {
  const texts = Array.from({ length: 9000 }, (_, i) => `${'€'.repeat(i % 7)}😀${i}`)
  const content = texts.map((text, i) => JSON.stringify({ id: `${i}`, text })).join('\n')
  for (const [name, bytes] of [
    ['in.jsonl', Buffer.from(content)],
    ['in.jsonl.gz', gzipSync(content)],
  ] as const) {
    expect((await read(bytes, name)).map(({ text }) => text)).toEqual(texts)
  }
})

it('reads ids, one a line or as JSON', async () => {
  expect(await all(idsOf(await file('a b\n\n{"_id":"c"}\n{"id":"d"}\n'), LIMITS))).toEqual(['a b', 'c', 'd'])
})

it('takes no more of a line into memory than it may have', async () => {
  const read = async (length: number) => all(textLines(await file(`ok\n${'x'.repeat(length)}\n`), 1000))
  expect(await read(1000)).toHaveLength(2)
  await expect(read(1001)).rejects.toMatchObject({
    message: expect.stringMatching(/in\.jsonl:2: .* at most 1000 bytes/),
  })
})

it('says what is wrong with a compressed file', async () => {
  await expect(read(gzipSync(GOOD.repeat(50)).subarray(0, 30), 'bad.gz')).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringMatching(/cannot read .*bad\.gz: unexpected end of file/),
  })
  for (const content of ['not zstd', '', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20])]) {
    await expect(read(content, 'bad.zst')).rejects.toMatchObject({ message: expect.stringMatching(/bad\.zst: /) })
  }
})

it.each([
  ['is not JSON', `${GOOD}not json\n`, /in\.jsonl:2: must be JSON/],
  ['is no object', '[1]\n', /in\.jsonl:1: line: must be a JSON object/],
  ['has no id', '{"text":"x"}\n', /in\.jsonl:1: _id: must be a string that is not empty, got nothing/],
  ['has an empty id', '\n{"id":"","text":"x"}\n', /in\.jsonl:2: id: must be a string that is not empty/],
  ['has an id that is too long', `{"id":"${'x'.repeat(257)}","text":"x"}`, /id: must have at most 256.*got 257/],
  ['has a fraction for an id', '{"id":7.5,"text":"x"}', /id: must be a string that is not empty, got 7.5/],
  ['has two ids that differ', '{"id":"a","_id":"b","text":"x"}', /id: must be the same as _id, "b", got "a"/],
  ['has no text', '{"id":"a"}', /text: must be a string, got nothing/],
  ['has a text that is too long', `{"id":"a","text":"${'x'.repeat(101)}"}`, /at most 100 bytes, got 101/],
  ['is endless', `{"id":"a","text":"${'x'.repeat(1_100_000)}`, /in\.jsonl:1: a line must have at most/],
  ['is not UTF-8', Buffer.from([0x7b, 0xff, 0x0a]), /in\.jsonl:1: must be UTF-8 text/],
  ['is not there', undefined, /cannot read .*in\.jsonl: ENOENT/],
])('refuses a file that %s, by line', async (_what, content, message) => {
  const path = content === undefined ? join(folder, 'nowhere', 'in.jsonl') : await file(content)
  await expect(all(passagesOf(path, LIMITS))).rejects.toMatchObject({
    status: 400,
    message: expect.stringMatching(message),
  })
})
