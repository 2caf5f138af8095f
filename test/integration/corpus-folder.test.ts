/** `file:` corpora as workers read them: real folders, real workers, and what must not be opened. */
import { copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildCorpus } from '../../producer/corpora/corpus-build.js'
import type { CorpusDescription } from '../../shared/corpus/corpus-folder.js'
import { CorpusFolders } from '../../worker/pipeline/corpus-folders.js'
import { useStage } from './stage.js'

const stage = useStage()
const passages = (count: number, text = (i: number) => `passage ${i} about queues and workers ${i % 7} `.repeat(3)) =>
  Array.from({ length: count }, (_, i) => ({ id: `p${i} €`, text: text(i) }))

let root = ''
let built: CorpusDescription
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'rankmill-folders-'))
  await mkdir(join(root, 'allowed'))
  built = await buildCorpus(passages(5000), join(root, 'allowed', 'c'))
  await buildCorpus([{ id: 'secret', text: 'not for everybody' }], join(root, 'outside'))
})
afterAll(() => rm(root, { recursive: true }))

async function withFolders<T>(use: (folders: CorpusFolders) => Promise<T>): Promise<T> {
  const folders = new CorpusFolders(join(root, 'allowed'))
  try {
    return await use(folders)
  } finally {
    await folders.close()
  }
}

describe('a corpus folder', () => {
  it('gives back exactly what was built, by relative and absolute path', async () => {
    expect(built).toMatchObject({ passages: 5000, hasDictionary: true })
    const ids = [...passages(5000).map(({ id }) => id), 'absent']
    const expected = [...passages(5000).map(({ text }) => text), undefined]
    await withFolders(async (folders) => {
      for (const path of ['c', './c/', join(root, 'allowed', 'c')]) {
        expect(await folders.read(path, null, ids)).toEqual({ version: built.version, texts: expected })
      }
      expect(await folders.currentVersion('c')).toBe(built.version)
      await expect(folders.read('c', 'f'.repeat(32), ids)).rejects.toMatchObject({ code: 'corpus_changed' })
    })
  })

  it('is refused outside of the root, whatever way its path takes', async () => {
    await symlink(join(root, 'outside'), join(root, 'allowed', 'link'))
    await withFolders(async (folders) => {
      for (const path of [
        '../outside',
        join(root, 'outside'),
        'c/../../outside',
        'link',
        '/',
        '..',
        '/no/such/folder',
      ]) {
        await expect(folders.read(path, null, ['secret']), path).rejects.toMatchObject({
          code: 'invalid_request',
          message: expect.stringContaining('--corpus-root'),
        })
      }
    })
  })

  it('is refused where it is none, is damaged, or of another format', async () => {
    const at = (name: string) => join(root, 'allowed', name)
    const copy = async (name: string) => cp(at('c'), at(name), { recursive: true })
    const describe = async (name: string, change: object) => {
      await copy(name)
      const description = JSON.parse(await readFile(join(at(name), 'corpus.json'), 'utf8'))
      await writeFile(join(at(name), 'corpus.json'), JSON.stringify({ ...description, ...change }))
    }
    await mkdir(at('empty'))
    await mkdir(at('half.partial'))
    await describe('newer', { formatVersion: 2 })
    await describe('foreign', { format: 'something' })
    await describe('elsewhere', { dataFile: '../../outside/passages.mdb' })
    await describe('garbled', {})
    await writeFile(join(at('garbled'), 'corpus.json'), '{"format":')
    await copy('cut')
    await truncate(join(at('cut'), built.dataFile), 8192)
    await copy('garbage')
    await writeFile(join(at('garbage'), built.dataFile), Buffer.alloc(built.dataBytes, 7))
    await copy('without')
    await rm(join(at('without'), 'dictionary'))
    await copy('swapped')
    await copyFile(join(at('c'), 'corpus.json'), join(at('swapped'), 'dictionary'))
    await withFolders(async (folders) => {
      for (const [name, code, message] of [
        ['none', 'unknown_corpus', /there is no corpus at .*none/],
        ['half', 'unknown_corpus', /its build was begun and not finished/],
        ['half.partial', 'invalid_corpus', /its build was not finished/],
        ['empty', 'invalid_corpus', /it has no corpus\.json/],
        ['newer', 'invalid_corpus', /it has format 2, and this version reads 1/],
        ['foreign', 'invalid_corpus', /not that of a corpus/],
        ['elsewhere', 'invalid_corpus', /damaged: dataFile/],
        ['garbled', 'invalid_corpus', /not JSON/],
        ['cut', 'invalid_corpus', /8192 bytes instead of \d+/],
        ['garbage', 'invalid_corpus', /not an LMDB file/],
        ['without', 'invalid_corpus', /its dictionary cannot be read/],
        ['swapped', 'invalid_corpus', /a stored passage cannot be read/],
      ] as const) {
        await expect(folders.read(name, null, ['p1 €']), name).rejects.toMatchObject({
          code,
          message: expect.stringMatching(message),
        })
      }
    })
  })

  it('may be exchanged for another while it is open', async () => {
    const place = join(root, 'allowed', 'exchanged')
    await buildCorpus([{ id: 'a', text: 'first' }], place)
    await withFolders(async (folders) => {
      const first = await folders.read('exchanged', null, ['a'])
      expect(first.texts).toEqual(['first'])
      await buildCorpus([{ id: 'a', text: 'second' }], `${place}-new`)
      await rename(place, `${place}-old`)
      await rename(`${place}-new`, place)
      await expect(folders.read('exchanged', first.version, ['a'])).rejects.toMatchObject({ code: 'corpus_changed' })
      expect((await folders.read('exchanged', null, ['a'])).texts).toEqual(['second'])
    })
  })
})

it('a worker scores passages of a folder as if they had been sent', async () => {
  await stage().worker({ corpusRoot: join(root, 'allowed'), scoreCacheTtlMs: 0 })
  const client = stage().client({ maxJobPairs: 16 })
  const some = passages(5000).filter((_, i) => i % 131 === 0)
  const ids = some.map(({ id }) => id)
  const inline = await client.rerank({ query: 'queues 3', documents: some, returnDocuments: true })
  const documents = { corpus: 'file:c', ids, version: built.version }
  const named = await client.rerank({ query: 'queues 3', documents, returnDocuments: true })
  expect(named.results).toEqual(inline.results)
  const skipping = { ...documents, ids: ['absent', ids[5]!], missing: 'skip' as const }
  expect(await client.rerank({ query: 'q', documents: skipping })).toMatchObject({
    results: [{ index: 1, id: ids[5] }],
    missing: ['absent'],
  })
  const ask = (corpus: string) => client.rerank({ query: 'q', documents: { corpus, ids: ['secret'] } })
  await expect(ask('file:../outside')).rejects.toMatchObject({ code: 'invalid_request' })
  await expect(ask('file:none')).rejects.toMatchObject({ code: 'unknown_corpus' })
  await expect(ask('file:')).rejects.toMatchObject({ code: 'invalid_request', details: { param: 'documents.corpus' } })
})
