/**
 * Corpora: passages a second of `corpus put` and `corpus build`, what a passage takes in Redis and on disk, and how fast
 * they are read back by id, 100 at a time. The passages are the paragraphs of the installed packages' documentation, as in
 * the demo, or a JSONL file of your own; each is put several times with a number before it, to make a corpus of some size.
 *
 *   npm run bench:corpus [-- passages] [file.jsonl]
 */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { packagesFolder, readPassages } from '../cli/demo/passages.js'
import { findOrStartRedis } from '../cli/embedded/redis.js'
import { buildCorpus } from '../producer/corpora/corpus-build.js'
import { CorpusWriter } from '../producer/corpora/corpus-writer.js'
import { type Passage, passagesOf } from '../producer/corpora/passage-lines.js'
import { Corpora } from '../shared/corpus/corpora.js'
import { CorpusFolder } from '../shared/corpus/corpus-folder.js'
import { keysOf } from '../shared/protocol/keys.js'
import { printConditions } from './conditions.js'

const READS = 300
const CANDIDATES = 100
const [count, file] = [Number(process.argv[2] ?? 50_000), process.argv[3]]

async function texts(): Promise<string[]> {
  if (file === undefined) return (await readPassages(packagesFolder())).map(({ text }) => text)
  const found: string[] = []
  for await (const { text } of passagesOf(file, { maxDocumentBytes: 1_000_000 })) found.push(text)
  return found
}

function* passages(distinct: readonly string[]): Generator<Passage> {
  for (let i = 0; i < count; i++) yield { id: `p${i}`, text: `${i} ${distinct[i % distinct.length]}` }
}

async function rate(calls: number, run: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await run()
  return Math.round((calls * 1000) / (performance.now() - startedAt))
}

const ids = () => Array.from({ length: CANDIDATES }, () => `p${Math.floor(Math.random() * count)}`)
const readRate = (read: (ids: string[]) => Promise<unknown>) =>
  rate(READS * CANDIDATES, async () => {
    for (let i = 0; i < READS; i++) await read(ids())
  })

const distinct = await texts()
const bytes = [...passages(distinct)].reduce((sum, { text }) => sum + Buffer.byteLength(text), 0)
const server = await findOrStartRedis({ dataDir: '.rankmill/redis', log: (line) => console.log(`# ${line}`) })
const redis = new Redis(server.url)
const keys = keysOf('{bench-corpus}', 'rerank')
const folder = await mkdtemp(join(tmpdir(), 'rankmill-bench-'))
const writer = new CorpusWriter(redis, keys)
const corpora = new Corpora(redis, keys)
try {
  printConditions('corpora', {
    passages: count,
    distinct: distinct.length,
    'bytes a passage': Math.round(bytes / count),
    source: file ?? 'documentation of the installed packages',
    redis: /redis_version:(\S+)/.exec(await redis.info('server'))?.[1],
  })
  const put = await rate(count, () => writer.put('c', passages(distinct), { replace: true }))
  const again = await rate(count, () => writer.put('c', passages(distinct)))
  const info = await corpora.info('c')
  const read = await readRate((wanted) => corpora.read('c', null, wanted))
  // What the same passages take as they are.
  const pipeline = redis.pipeline()
  for (const { id, text } of passages(distinct)) pipeline.hset('{bench-corpus}:plain', id, text)
  await pipeline.exec()
  const plain = await redis.memory('USAGE', '{bench-corpus}:plain', 'SAMPLES', 200)
  const target = join(folder, 'c')
  const build = await rate(count, () => buildCorpus(passages(distinct), target))
  const opened = await CorpusFolder.open(target)
  const fromDisk = await readRate((wanted) => opened.read(wanted))
  const onDisk = (await stat(join(target, opened.description.dataFile))).size
  await opened.close()
  console.table({
    'Redis, uncompressed': { 'bytes a passage': Math.round((plain ?? 0) / count) },
    Redis: {
      'bytes a passage': Math.round((info.bytes ?? 0) / count),
      'put /s': put,
      'put again /s': again,
      'read /s': read,
    },
    folder: { 'bytes a passage': Math.round(onDisk / count), 'put /s': build, 'read /s': fromDisk },
  })
} finally {
  if ((await corpora.list()).length > 0) await corpora.remove('c')
  const left = await redis.keys('{bench-corpus}*')
  if (left.length > 0) await redis.unlink(left)
  redis.disconnect()
  await server.stop()
  await rm(folder, { recursive: true, force: true })
}
