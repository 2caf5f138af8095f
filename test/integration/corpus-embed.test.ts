/** Embeddings of prefilters that are known before a request asks: stored with a corpus, or shared by workers. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { CorpusWriter } from '../../producer/corpora/corpus-writer.js'
import { Corpora } from '../../shared/corpus/corpora.js'
import { makeLogger } from '../../shared/logger.js'
import type { OptionsInput } from '../../shared/options.js'
import { keysOf } from '../../shared/protocol/keys.js'
import type { RerankInput } from '../../shared/protocol/request.js'
import { openEncoder } from '../../worker/model-source.js'
import { embedCorpus } from '../../worker/offline/embed-corpus.js'
import { copyOf, tinyModel } from '../fixtures/models/tiny-models.js'
import { runCommand } from './command.js'
import { useStage } from './stage.js'

const stage = useStage()
const filter = tinyModel('bi-encoder')
const FORGETFUL: OptionsInput = { filter, embeddingCacheBytes: 0, embeddingCacheTtlMs: 0, scoreCacheTtlMs: 0 }
const QUERY = 'a job in the queue'
const words = ['job', 'queue', 'worker', 'retry', 'fruit', 'apple', 'score', 'batch']
const text = (i: number) => Array.from({ length: 4 + (i % 9) }, (_, n) => words[(i * (n + 3) + n) % 8]).join(' ')
const passages = (count: number) => Array.from({ length: count }, (_, i) => ({ id: `p${i}`, text: `${text(i)} ${i}` }))
const ids = (count: number) => Array.from({ length: count }, (_, i) => `p${i}`)
const never = new AbortController().signal

function corpus() {
  const { redis, prefix } = stage()
  const keys = keysOf(prefix, 'rerank')
  return { corpora: new Corpora(redis, keys), writer: new CorpusWriter(redis, keys), keys }
}

const command = (...args: string[]) => runCommand(['corpus', ...args], '.', { RANKMILL_PREFIX: stage().prefix })

const ask = (documents: RerankInput['documents'], keep: number, more: object = {}) =>
  stage()
    .client()
    .rerank({ query: QUERY, documents, strategy: { prefilter: { keep, model: filter } }, ...more })

async function embed(onProgress?: (embedded: number) => void, signal = never) {
  const encoder = await openEncoder(filter, stage().options(), {
    threads: 1,
    log: makeLogger('silent', 'test'),
  })
  try {
    return await embedCorpus(corpus().corpora, 'c', undefined, encoder, {
      signal,
      ...(onProgress ? { onProgress } : {}),
    })
  } finally {
    await encoder.close()
  }
}

describe('corpus embed', () => {
  it('spares requests the passages, and changes no bit of their results', async () => {
    await corpus().writer.put('c', passages(300))
    await stage().worker(FORGETFUL)
    const reference = { corpus: 'c', ids: ids(300) }
    const before = await ask(reference, 20, { returnDocuments: true })
    expect(before.usage).toMatchObject({ prefiltered: 280, embeddings_computed: 300, embeddings_reused: 0 })
    const said = await command('embed', 'c', '--model', filter)
    expect(said).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(said.stdout)).toMatchObject({ name: 'c', version: '1', passages: 300, embedded: 300 })
    const after = await ask(reference, 20, { returnDocuments: true })
    expect(after.usage).toMatchObject({ prefiltered: 280, embeddings_computed: 0, embeddings_reused: 300 })
    expect(after.results).toEqual(before.results)
    expect((await ask(reference, 20, { topN: 7 })).results).toEqual(
      (
        await ask(
          passages(300).map((passage) => passage.text),
          20,
          { topN: 7 },
        )
      ).results.map((row) => ({
        ...row,
        id: `p${row.index}`,
      })),
    )
    const again = await command('embed', 'c', '--model', filter)
    expect(JSON.parse(again.stdout)).toMatchObject({ passages: 300, embedded: 0 })
  })

  it('serves a filter that reads the texts beside', async () => {
    const count = 120
    await corpus().writer.put('c', passages(count))
    await stage().worker(FORGETFUL)
    const reference = { corpus: 'c', ids: ids(count), scores: ids(count).map((_, i) => (i * 7) % 50) }
    for (const model of [`bm25+${filter}`, `first-stage+${filter}`]) {
      const more = { returnDocuments: true, strategy: { prefilter: { keep: 20, model }, fuse: { weight: 0.5 } } }
      const before = await ask(reference, 20, more)
      await embed()
      const after = await ask(reference, 20, more)
      expect(after.results).toEqual(before.results)
      expect(after.usage).toMatchObject({ prefiltered: 100, embeddings_computed: 0, embeddings_reused: count })
      const given = passages(count).map((passage, i) => ({ ...passage, score: reference.scores[i]! }))
      expect((await ask(given, 20, more)).results).toEqual(before.results)
    }
  })

  it('never stands for a passage that has changed, in whatever layer; nor for another model', async () => {
    const { writer } = corpus()
    await writer.put('c', passages(60))
    await embed()
    const other = await copyOf('bi-encoder')
    const prompts = { prompts: { passage: 'passage: ' } }
    await writeFile(join(other, 'config_sentence_transformers.json'), JSON.stringify(prompts))
    await stage().worker({ ...FORGETFUL, filter: `${filter},${other}` })
    const texts = passages(60).map((passage) => passage.text)
    for (const [round, changed] of [[3, 4, 5], [5, 40], [0]].entries()) {
      for (const i of changed) texts[i] = `another text about fruit ${round} ${i}`
      await writer.put(
        'c',
        changed.map((i) => ({ id: `p${i}`, text: texts[i]! })),
      )
      const found = await ask({ corpus: 'c', ids: ids(60) }, 10)
      const given = await ask(texts, 10)
      expect(found.results.map(({ index, relevance_score }) => [index, relevance_score])).toEqual(
        given.results.map(({ index, relevance_score }) => [index, relevance_score]),
      )
      const differing = texts.filter((one, i) => one !== passages(60)[i]!.text).length
      expect(found.usage).toMatchObject({ embeddings_computed: differing, embeddings_reused: 60 - differing })
    }
    const strategy = { prefilter: { keep: 10, model: other } }
    expect((await ask({ corpus: 'c', ids: ids(60) }, 10, { strategy })).usage.embeddings_reused).toBe(0)
    expect(await embed()).toMatchObject({ passages: 60, embedded: 5 })
    expect((await ask({ corpus: 'c', ids: ids(60) }, 10)).usage.embeddings_computed).toBe(0)
  })

  it('goes on where it was stopped', async () => {
    await corpus().writer.put('c', passages(2000))
    const stop = new AbortController()
    let done = 0
    const stopped = embed((embedded) => {
      done = embedded
      stop.abort(new Error('stopped'))
    }, stop.signal)
    await expect(stopped).rejects.toThrow('stopped')
    expect(done).toBeGreaterThan(0)
    expect(done).toBeLessThan(2000)
    expect(await embed()).toMatchObject({ passages: 2000, embedded: 2000 - done })
    expect(Object.keys((await corpus().corpora.manifests.load('c')).manifest.pins)).toEqual([])
  })

  it('leaves nothing behind when its corpus is removed', async () => {
    await corpus().writer.put('c', passages(50))
    await embed()
    expect((await stage().keys('corpus-embeddings:*')).length).toBe(1)
    await corpus().corpora.remove('c')
    expect(await stage().keys('corpus-embeddings:*')).toEqual([])
  })

  it.each([
    ['an unknown corpus', ['nobody'], 'unknown_corpus'],
    ['a version that is gone', ['c@7'], 'corpus_changed'],
    ['a folder', ['file:c'], 'invalid_request'],
    ['no bi-encoder', ['c', '--model', 'test/fixtures/models/none'], 'unknown_model'],
  ])('refuses %s by its name', async (_, args, code) => {
    await corpus().writer.put('c', passages(3))
    const said = await command('embed', ...(args[1] ? args : [...args, '--model', filter]))
    expect(said.code).not.toBe(0)
    expect(said.stderr).toContain(code)
  })
})

describe('embeddings in Redis', () => {
  const texts = passages(80).map((passage) => passage.text)

  it('are shared by workers, and scores are the same', async () => {
    const first = await stage().worker({ filter, scoreCacheTtlMs: 0 })
    const made = await ask(texts, 10)
    expect(made.usage).toMatchObject({ embeddings_computed: 80, embeddings_reused: 0 })
    await first.close(true)
    await stage().worker({ filter, scoreCacheTtlMs: 0 })
    const known = await ask(texts, 10)
    expect(known.usage).toMatchObject({ embeddings_computed: 0, embeddings_reused: 80 })
    expect(known.results).toEqual(made.results)
  })

  it('are as many as the option says at most, and go with time', async () => {
    await stage().worker({ filter, sharedEmbeddingCacheEntries: 20, embeddingCacheTtlMs: 60_000 })
    for (let i = 0; i < 80; i += 7) await ask(texts.slice(i, i + 7), 3)
    const keys = await stage().keys('embeddings:*')
    expect(keys.length).toBeGreaterThan(0)
    for (const key of keys) {
      expect(await stage().redis.hlen(key)).toBeLessThanOrEqual(10)
      const left = await stage().redis.pttl(key)
      expect(left).toBeGreaterThan(0)
      expect(left).toBeLessThanOrEqual(60_000)
    }
  })
})
