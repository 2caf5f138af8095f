/** `rankmill corpus` as a user types it: real processes, killed for real, and what stands in Redis or on disk after. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Corpora } from '../../shared/corpus/corpora.js'
import { parseManifest } from '../../shared/corpus/manifest.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { until, useStage } from './stage.js'

const stage = useStage()
const MAIN = resolve('dist/cli/main.js')

let folder = ''
const at = (name: string) => join(folder, name)
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-corpus-'))
})
afterAll(() => rm(folder, { recursive: true }))

function start(args: string[], node: string[] = []): ChildProcess {
  const child = spawn(process.execPath, [...node, MAIN, 'corpus', ...args], {
    env: { ...process.env, RANKMILL_PREFIX: stage().prefix },
  })
  child.stdin?.on('error', () => undefined)
  stage().onEnd(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return child
}

async function corpus(args: string[], input = ''): Promise<{ code: number | null; out: string; err: string }> {
  const child = start(args)
  let [out, err] = ['', '']
  child.stdout?.on('data', (data) => (out += data))
  child.stderr?.on('data', (data) => (err += data))
  child.stdin?.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

const corpora = () => new Corpora(stage().redis, keysOf(stage().prefix, 'rerank'))
const line = (i: number, text = `passage ${i} of some length, so that there is something to compress in it`) =>
  `${JSON.stringify({ _id: `p${i}`, title: `Title ${i}`, text, metadata: { url: 'x' } })}\n`
const lines = (count: number, from = 0, text?: string) =>
  Array.from({ length: count }, (_, i) => line(from + i, text)).join('')
const textOf = (i: number) => `Title ${i} passage ${i} of some length, so that there is something to compress in it`
const LONG = 'a long text '.repeat(300)

describe('corpus put, ls, show and rm', () => {
  it('store, list and remove; BEIR titles come before the texts', async () => {
    await writeFile(at('c.jsonl'), `\ufeff${lines(3).replaceAll('\n', '\r\n')}\r\n{"id":"plain","text":"no title"}`)
    const put = await corpus(['put', 'c', at('c.jsonl')])
    expect(put).toMatchObject({ code: 0, err: '' })
    expect(JSON.parse(put.out)).toMatchObject({ name: 'c', put: 4, grown: 4, passages: 4, version: '1' })
    expect((await corpora().read('c', null, ['p2', 'plain'])).texts).toEqual([textOf(2), 'no title'])
    const listed = await corpus(['ls'])
    expect(JSON.parse(listed.out)).toMatchObject({ name: 'c', passages: 4, bytes: expect.any(Number) })
    expect(JSON.parse((await corpus(['rm', 'c', '--ids', '-'], 'p0\n\n{"_id":"p1"}\nnobody\n')).out)).toMatchObject({
      ids: 3,
      removed: 2,
      passages: 2,
    })
    expect(JSON.parse((await corpus(['show', 'c'])).out)).toMatchObject({ passages: 2, version: '2' })
    expect(await corpus(['rm', 'c'])).toMatchObject({ code: 0 })
    expect(await corpus(['show', 'c'])).toMatchObject({ code: 2, err: expect.stringContaining('unknown_corpus') })
  })

  it('reads compressed files, and standard input', async () => {
    await writeFile(at('c.jsonl.gz'), gzipSync(lines(5000)))
    expect(JSON.parse((await corpus(['put', 'c', at('c.jsonl.gz')])).out)).toMatchObject({ passages: 5000 })
    // A Zstandard frame of one raw block: magic, descriptor (one segment, size of one byte), block header, content.
    const content = Buffer.from('{"id":"z","text":"zstd"}\n')
    const block = (content.length << 3) | 1
    const frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, content.length, block & 255, block >> 8, 0]
    await writeFile(at('c.jsonl.zst'), Buffer.concat([Buffer.from(frame), content]))
    expect(JSON.parse((await corpus(['put', 'c', at('c.jsonl.zst')])).out)).toMatchObject({ passages: 5001 })
    const replaced = await corpus(['put', 'c', '-', '--replace'], lines(7))
    expect(JSON.parse(replaced.out)).toMatchObject({ put: 7, grown: -4994, passages: 7 })
  })

  it('refuse a bad line by its number, and store nothing', async () => {
    await writeFile(at('in.jsonl'), `${lines(900)}${line(4)}`)
    for (const args of [
      ['put', 'c', at('in.jsonl')],
      ['build', at('in.jsonl'), '-o', at('never')],
    ]) {
      const { code, out, err } = await corpus(args)
      expect(err).toMatch(/invalid_request: .*in\.jsonl:901: id: "p4" was there before/)
      expect({ code, out }).toEqual({ code: 2, out: '' })
    }
    expect(await stage().keys('corp*')).toEqual([])
    expect((await readdir(folder)).filter((name) => name.startsWith('never'))).toEqual([])
  })

  it('refuse bad names and bad usage', async () => {
    await writeFile(at('c.jsonl'), lines(1))
    for (const [args, message] of [
      [['put', 'a:b', at('c.jsonl')], /corpus "a:b": the name must be/],
      [['put', 'file:x', at('c.jsonl')], /read-only; build another/],
      [['put', 'c'], /missing required argument 'file'/],
      [['build', at('c.jsonl')], /required option '-o/],
      [['rm', 'none', '--ids', at('c.jsonl')], /unknown_corpus/],
    ] as const) {
      const { code, err } = await corpus([...args])
      expect(err).toMatch(message)
      expect(code).toBe(2)
    }
  })
})

describe('a put that is killed', () => {
  it('leaves the corpus as it was, and nothing for good; put again makes it whole', async () => {
    await corpus(['put', 'c', '-'], lines(2000, 0, 'before'))
    const child = start(['put', 'c', '-'])
    const all = lines(4000, 0, LONG)
    child.stdin?.write(all.slice(0, all.length / 2))
    const layers = () => stage().keys('corpus-layer*')
    await until('half of it is in Redis', async () => (await layers()).length === 2)
    child.kill('SIGKILL')
    await once(child, 'exit')
    const read = async () => new Set((await corpora().read('c', null, ['p0', 'p1999', 'p2000'])).texts)
    expect(await read()).toEqual(new Set(['Title 0 before', 'Title 1999 before', undefined]))
    const ttls = await Promise.all((await layers()).map((key) => stage().redis.pttl(key)))
    expect(ttls.filter((ttl) => ttl === -1)).toHaveLength(1)
    expect(Math.max(...ttls)).toBeLessThanOrEqual(120_000)
    const again = await corpus(['put', 'c', '-'], all)
    expect(JSON.parse(again.out)).toMatchObject({ passages: 4000, version: '2', versions: ['2'] })
    expect(await read()).toEqual(new Set([0, 1999, 2000].map((i) => `Title ${i} ${LONG}`)))
  })

  it('while its passages are merged is whole already, and the next to come by finishes', async () => {
    const count = 20_000
    await corpus(['put', 'c', '-'], lines(count, 0, 'before'))
    const child = start(['put', 'c', '-'])
    child.stdin?.end(lines(count, 1))
    const manifest = async () =>
      parseManifest(await stage().redis.get(keysOf(stage().prefix, 'rerank').corpusManifest('c')))
    await until('passages are being moved', async () => {
      for (;;) {
        const [lower, upper] = (await manifest()).layers
        if (upper) return lower?.since === upper.since
        // On a slow day all is merged before it is seen.
        if (child.exitCode !== null) return true
      }
    })
    if (child.kill('SIGKILL')) await once(child, 'exit')
    const ids = Array.from({ length: count + 1 }, (_, i) => `p${i}`)
    const expected = ids.map((_, i) => (i === 0 ? 'Title 0 before' : textOf(i)))
    expect((await corpora().read('c', null, ids)).texts).toEqual(expected)
    expect(JSON.parse((await corpus(['ls'])).out)).toMatchObject({ passages: count + 1, versions: ['2'] })
    expect((await manifest()).layers).toHaveLength(1)
    expect((await corpora().read('c', null, ids)).texts).toEqual(expected)
  })
})

it('a signal stops a put and undoes what is half done', async () => {
  const child = start(['put', 'c', '-'])
  let err = ''
  child.stderr?.on('data', (data) => (err += data))
  child.stdin?.write(lines(2000, 0, LONG))
  await until('some of it is in Redis', async () => (await stage().keys('corpus-layer*')).length === 1)
  child.kill('SIGINT')
  expect((await once(child, 'exit'))[0]).toBe(130)
  expect(err).toMatch(/nothing was changed/)
  expect(await stage().keys('corp*')).toEqual([])
})

it('put and build take any number of passages in little memory', async () => {
  const count = 20_000
  for (const args of [
    ['put', 'c', '-'],
    ['build', '-', '-o', at('large')],
  ]) {
    // Less than half of what the texts alone would take.
    const child = start(args, ['--max-old-space-size=48'])
    let [out, err] = ['', '']
    child.stdout?.on('data', (data) => (out += data))
    child.stderr?.on('data', (data) => (err += data))
    const ended = once(child, 'close')
    for (let i = 0; i < count; i += 1000) {
      const room = child.stdin?.write(lines(1000, i, `${i} ${LONG}`))
      if (!room && child.exitCode === null) await Promise.race([once(child.stdin!, 'drain'), ended])
    }
    child.stdin?.end()
    await ended
    expect(err).toBe('')
    expect(JSON.parse(out)).toMatchObject({ passages: count })
  }
})

describe('corpus build', () => {
  it('makes a folder that says what it is, the same from the same file', async () => {
    await writeFile(at('b.jsonl'), lines(3000))
    const built = JSON.parse((await corpus(['build', at('b.jsonl'), '-o', at('one')])).out)
    expect(built).toMatchObject({ corpus: `file:${at('one')}`, passages: 3000, format: 1 })
    expect(built.bytes).toBeLessThan((await stat(at('b.jsonl'))).size)
    expect(JSON.parse((await corpus(['show', `file:${at('one')}`])).out)).toEqual(built)
    const again = JSON.parse((await corpus(['build', at('b.jsonl'), '-o', at('two')])).out)
    expect(again.version).toBe(built.version)
    expect(await readdir(at('two'))).toEqual(expect.arrayContaining(['corpus.json', `passages-${built.version}.mdb`]))
  })

  it('leaves a folder alone that is there, and one that it did not begin', async () => {
    await mkdir(at('mine'))
    await mkdir(at('other.partial'))
    await writeFile(at('other.partial/precious'), 'x')
    await writeFile(at('b.jsonl'), lines(3))
    for (const [name, message] of [
      ['mine', /conflict: .*mine is there already/],
      ['other', /conflict: .*other\.partial is there, and not from a build/],
      ['b.jsonl/x', /cannot build .*ENOTDIR/],
    ] as const) {
      const { code, err } = await corpus(['build', at('b.jsonl'), '-o', at(name)])
      expect(err).toMatch(message)
      expect(code).toBeGreaterThan(0)
    }
    expect(await readFile(at('other.partial/precious'), 'utf8')).toBe('x')
    expect(await readdir(at('mine'))).toEqual([])
  })

  it('that is killed leaves no corpus, and starts over when it is run again', async () => {
    const child = start(['build', '-', '-o', at('killed')])
    const all = lines(12_000, 0, LONG)
    child.stdin?.write(all.slice(0, all.length / 2))
    const draft = () =>
      stat(at('killed.partial/draft.mdb')).then(
        ({ size }) => size,
        () => 0,
      )
    await until('half of it is on disk', async () => (await draft()) > 100_000)
    const second = await corpus(['build', '-', '-o', at('killed')], all)
    expect(second.err).toMatch(/conflict: process \d+ is building killed\.partial/)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await corpus(['show', `file:${at('killed')}`])).toMatchObject({
      code: 2,
      err: expect.stringContaining('its build was begun and not finished'),
    })
    expect((await corpus(['show', `file:${at('killed.partial')}`])).err).toMatch(/its build was not finished/)
    expect(JSON.parse((await corpus(['build', '-', '-o', at('killed')], all)).out)).toMatchObject({ passages: 12_000 })
    expect((await readdir(folder)).filter((name) => name.startsWith('killed'))).toEqual(['killed'])
    expect(await readdir(at('killed'))).not.toContain('builder.json')
  })
})
