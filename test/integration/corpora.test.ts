/** Corpora in Redis as producers and workers rely on them: versions, pins, changes that are seen whole or not at all. */
import { describe, expect, it } from 'vitest'
import { CorpusWriter } from '../../producer/corpora/corpus-writer.js'
import { Corpora } from '../../shared/corpus/corpora.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { type Stage, useStage } from './stage.js'

const stage = useStage()
const MINUTE = 60_000

function corporaOf({ redis, prefix }: Stage) {
  const keys = keysOf(prefix, 'rerank')
  return { corpora: new Corpora(redis, keys), writer: new CorpusWriter(redis, keys), keys }
}

const passages = (count: number, text: (i: number) => string, from = 0) =>
  Array.from({ length: count }, (_, i) => ({ id: `p${from + i}`, text: text(from + i) }))
const words = (i: number) => `passage ${i} about ${['queues', 'workers', 'scores'][i % 3]} and what they do `.repeat(4)

describe('a corpus', () => {
  it('gives back exactly what was put, compressed', async () => {
    const { corpora, writer } = corporaOf(stage())
    const odd = [
      { id: 'empty', text: '' },
      { id: 'ünïcode €', text: 'naïve 😀 \u0000 text' },
      { id: 'x'.repeat(256), text: 'y'.repeat(100_000) },
    ]
    const all = [...passages(3000, words), ...odd]
    const report = await writer.put('c', all)
    expect(report).toMatchObject({ passages: 3003, given: 3003, grown: 3003, version: '1', versions: ['1'] })
    const read = await corpora.read('c', null, [...all.map(({ id }) => id), 'absent'])
    expect(read).toEqual({ version: '1', texts: [...all.map(({ text }) => text), undefined] })
    const characters = all.reduce((sum, { text }) => sum + text.length, 0)
    expect(report.bytes).toBeLessThan(0.6 * characters)
  })

  it('is added to, corrected, cut and replaced; and counts its passages', async () => {
    const { corpora, writer } = corporaOf(stage())
    await writer.put(
      'c',
      passages(10, () => 'old'),
    )
    expect(
      await writer.put(
        'c',
        passages(4, () => 'new', 8),
      ),
    ).toMatchObject({ given: 4, grown: 2, passages: 12 })
    expect(await writer.deletePassages('c', ['p0', 'p9', 'nobody'])).toMatchObject({
      given: 3,
      grown: -2,
      passages: 10,
    })
    const ids = ['p0', 'p1', 'p8', 'p9', 'p11', 'p12']
    expect(await corpora.read('c', null, ids)).toEqual({
      version: '3',
      texts: [undefined, 'old', 'new', undefined, 'new', undefined],
    })
    const whole = await writer.put('c', [{ id: 'p1', text: 'only' }], { replace: true })
    expect(whole).toMatchObject({ passages: 1, grown: -9, version: '4', versions: ['4'] })
    expect((await corpora.read('c', null, ids)).texts).toEqual([
      undefined,
      'only',
      ...ids.slice(2).map(() => undefined),
    ])
    expect(await corpora.list()).toMatchObject([{ name: 'c', passages: 1 }])
  })

  it('is gone when it is removed, and never has the same version again', async () => {
    const { corpora, writer, keys } = corporaOf(stage())
    await writer.put('c', passages(5, words))
    await corpora.remove('c')
    await expect(corpora.read('c', null, ['p1'])).rejects.toMatchObject({ code: 'unknown_corpus' })
    await expect(corpora.read('c', '1', ['p1'])).rejects.toMatchObject({ code: 'corpus_changed' })
    await expect(corpora.remove('c')).rejects.toMatchObject({ code: 'unknown_corpus' })
    await expect(writer.deletePassages('c', ['p1'])).rejects.toMatchObject({ code: 'unknown_corpus' })
    expect(await stage().keys('corp*')).toEqual([keys.corpusManifest('c')])
    expect(await corpora.list()).toEqual([])
    expect(await writer.put('c', passages(1, words))).toMatchObject({ passages: 1, version: '3' })
  })

  it('refuses ids that come twice, no passages and bad names, and stays as it was', async () => {
    const { corpora, writer } = corporaOf(stage())
    await writer.put('c', [{ id: 'a', text: 'kept' }])
    const twice = [...passages(1200, words), { id: 'p3', text: 'again', source: 'x.jsonl:1201' }]
    await expect(writer.put('c', twice)).rejects.toMatchObject({
      code: 'invalid_request',
      message: 'x.jsonl:1201: id: "p3" was there before',
    })
    await expect(writer.put('c', [])).rejects.toMatchObject({ message: expect.stringContaining('no passages') })
    for (const name of ['', 'a:b', '-a', 'a/b', 'a@1', 'x'.repeat(129), 'file:/tmp']) {
      await expect(writer.put(name, passages(1, words))).rejects.toMatchObject({ code: 'invalid_request' })
    }
    expect(await corpora.info('c')).toMatchObject({ passages: 1, version: '1' })
    expect(await stage().keys('corpus-layer*')).toHaveLength(1)
  })

  it('keeps what was published where its writer does not know, and gives up or renews', async () => {
    const { corpora, writer, keys } = corporaOf(stage())
    await writer.put('c', [{ id: 'a', text: 'published' }])
    const { scripts } = corpora.manifests
    const [published] = await stage().keys('corpus-layer*')
    for (const ttlMs of [0, 1]) await scripts.touch(published!, ttlMs)
    expect(await stage().redis.pttl(published!)).toBe(-1)
    const begun = keys.corpusLayer('c', 'begun')
    await scripts.stage(begun, MINUTE, 1, ['b', Buffer.from('x')])
    // As after a broken connection: a chunk that comes again is taken once, one out of turn is not.
    expect(await scripts.stage(begun, MINUTE, 1, ['b', Buffer.from('x')])).toBe(0)
    expect(await scripts.stage(begun, MINUTE, 3, ['c', Buffer.from('x')])).toBe(-1)
    await scripts.touch(begun, 0)
    expect(await stage().redis.exists(begun)).toBe(0)
    expect((await corpora.read('c', null, ['a'])).texts).toEqual(['published'])
  })

  it('takes two changes at once, and keeps both', async () => {
    const { corpora, writer } = corporaOf(stage())
    await Promise.all([0, 1, 2, 3].map((part) => writer.put('c', passages(700, words, part * 1000))))
    expect(await corpora.info('c')).toMatchObject({ passages: 2800, version: '4', versions: ['4'] })
    expect((await corpora.read('c', null, ['p5', 'p1005', 'p3699'])).texts).toEqual([5, 1005, 3699].map(words))
  })

  it('is never seen half changed', async () => {
    const { corpora, writer } = corporaOf(stage())
    const count = 1500
    const put = (n: number) =>
      writer.put(
        'c',
        passages(count, () => `text of put ${n}`),
        { replace: n % 3 === 0 },
      )
    await put(0)
    let writing = true
    const seen = new Set<string>()
    const ids = passages(count, words).map(({ id }) => id)
    const read = async () => {
      while (writing) {
        const { texts, version } = await corpora.read('c', null, ids)
        expect(new Set(texts).size).toBe(1)
        seen.add(version)
      }
    }
    const readers = [read(), read()]
    for (let n = 1; n <= 12; n++) await put(n)
    writing = false
    await Promise.all(readers)
    expect(seen.size).toBeGreaterThan(2)
    expect(new Set((await corpora.read('c', null, ids)).texts)).toEqual(new Set(['text of put 12']))
  })
})

describe('a pinned version', () => {
  it('stays as it is while the corpus changes, and goes with its last pin', async () => {
    const { corpora, writer } = corporaOf(stage())
    await writer.put(
      'c',
      passages(1000, (i) => `first ${i}`),
    )
    expect(await corpora.pin('c', 'run-1', MINUTE)).toBe('1')
    await writer.put(
      'c',
      passages(600, (i) => `second ${i}`, 500),
    )
    expect(await corpora.pin('c', 'run-2', MINUTE)).toBe('2')
    await writer.deletePassages('c', ['p0', 'p700'])
    await writer.put('c', [{ id: 'p1', text: 'fourth' }])
    const ids = ['p0', 'p1', 'p499', 'p700', 'p1099']
    const at = async (version: string) => (await corpora.read('c', version, ids)).texts
    const [first, second] = [
      ['first 0', 'first 1', 'first 499', 'first 700', undefined],
      ['first 0', 'first 1', 'first 499', 'second 700', 'second 1099'],
    ]
    expect(await at('1')).toEqual(first)
    expect(await at('2')).toEqual(second)
    expect(await corpora.info('c')).toMatchObject({ version: '4', versions: ['1', '2', '4'], passages: 1098 })
    await expect(at('3')).rejects.toMatchObject({ code: 'corpus_changed', message: expect.stringContaining('is 4') })
    // A holder that comes back after a restart finds its version; one that names it renews it.
    expect(await corpora.pin('c', 'run-1', MINUTE)).toBe('1')
    expect(await corpora.pin('c', 'run-2', MINUTE, '2')).toBe('2')
    await corpora.release('c', 'run-1')
    await expect(at('1')).rejects.toMatchObject({ code: 'corpus_changed' })
    await expect(corpora.pin('c', 'run-1', MINUTE, '1')).rejects.toMatchObject({ code: 'corpus_changed' })
    expect(await at('2')).toEqual(second)
    await corpora.release('c', 'run-2')
    expect(await corpora.info('c')).toMatchObject({ versions: ['4'], passages: 1098 })
    expect(await stage().keys('corpus-layer*')).toHaveLength(1)
    expect(await at('4')).toEqual([undefined, 'fourth', 'first 499', undefined, 'second 1099'])
  })

  it('outlives the replacement and the removal of its corpus', async () => {
    const { corpora, writer } = corporaOf(stage())
    await writer.put('c', passages(2000, words))
    await corpora.pin('c', 'run', MINUTE)
    await writer.put(
      'c',
      passages(2000, (i) => `${words(i + 1)} replaced`),
      { replace: true },
    )
    await corpora.remove('c')
    await writer.put('c', [{ id: 'p1', text: 'after' }])
    expect((await corpora.read('c', '1', ['p1', 'p2'])).texts).toEqual([words(1), words(2)])
    expect(await corpora.read('c', null, ['p1', 'p2'])).toMatchObject({ texts: ['after', undefined] })
    await corpora.release('c', 'run')
    expect(await corpora.info('c')).toMatchObject({ passages: 1, versions: ['4'] })
    expect(await stage().keys('corpus-dictionary*')).toEqual([])
  })

  it('goes when its holder gives no sign for the time of its pin', async () => {
    const { corpora, writer } = corporaOf(stage())
    await writer.put('c', passages(3, words))
    await corpora.pin('c', 'killed', 0)
    expect(
      await writer.put(
        'c',
        passages(1, () => 'new'),
      ),
    ).toMatchObject({ versions: ['2'] })
    await expect(corpora.pin('none', 'run', MINUTE)).rejects.toMatchObject({ code: 'unknown_corpus' })
  })
})

describe('a request', () => {
  it('reads the version it names, and else the current one', async () => {
    await stage().worker({ scoreCacheTtlMs: 0 })
    const { corpora } = corporaOf(stage())
    const client = stage().client()
    await client.putCorpus('c', [{ id: 'a', text: 'the first text' }])
    const version = await corpora.pin('c', 'test', MINUTE)
    await client.putCorpus('c', [{ id: 'a', text: 'the second text' }])
    const ask = async (documents: { corpus: string; ids: string[]; version?: string }) =>
      (await client.rerank({ query: 'q', documents, returnDocuments: true })).results[0]?.document?.text
    expect(await ask({ corpus: 'c', ids: ['a'] })).toBe('the second text')
    expect(await ask({ corpus: 'c', ids: ['a'], version })).toBe('the first text')
    expect(await ask({ corpus: 'c', ids: ['a'] })).toBe('the second text')
    await expect(ask({ corpus: 'c', ids: ['a'], version: '77' })).rejects.toMatchObject({ code: 'corpus_changed' })
  })

  it('skips ids that the corpus lacks where it says so, and names them in order', async () => {
    await stage().worker()
    const client = stage().client({ maxJobPairs: 2 })
    await client.putCorpus('c', passages(3, words))
    const ids = ['x1', 'p2', 'x2', 'x3', 'p0', 'x4', 'p1']
    const result = await client.rerank({ query: 'q', documents: { corpus: 'c', ids, missing: 'skip' } })
    expect(result.missing).toEqual(['x1', 'x2', 'x3', 'x4'])
    expect(result.results.map(({ index, id }) => [index, id]).sort()).toEqual([
      [1, 'p2'],
      [4, 'p0'],
      [6, 'p1'],
    ])
    expect(result.usage.pairs).toBe(3)
    const none = await client.rerank({ query: 'q', documents: { corpus: 'c', ids: ['x1'], missing: 'skip' } })
    expect(none).toMatchObject({ results: [], missing: ['x1'] })
    await expect(client.rerank({ query: 'q', documents: { corpus: 'c', ids } })).rejects.toMatchObject({
      code: 'missing_documents',
    })
  })
})
