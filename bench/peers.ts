/**
 * The race: every reranking library that installs from a registry, on one model folder, with the same pairs and cores, in turn,
 * round by round; scores compared with torch's. Python's environments are made under .rankmill/peers: some 10 GB, and with the
 * model, which learns a little first, three quarters of an hour the first time.
 *
 *   npm run bench:peers [-- --peers rankmill,st-torch] [--rounds 5] [--lists 5] [--threads N]
 *     --quality FOLDER   nDCG@10 of each one's scores too, on judged queries (as bench:quality has them; again for another)
 *     --queries N        of them (20)
 *     --candidates N     of a list, and of a judged query from the first stage (100)
 *     --requests N       latency too: so many requests of 10 documents that come at random, as often to all
 *     --http             servers instead, through one load generator; --requests N of a round (48)
 *     --url URL          a server that runs already, in the dialect of text-embeddings-inference: its /rerank
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { packagesFolder, readPassages } from '../cli/demo/passages.js'
import { QUESTIONS } from '../cli/demo/questions.js'
import { readCollections } from './collections.js'
import { printConditions } from './conditions.js'
import { PEERS, Workshop } from './peers/environments.js'
import { raceServers } from './peers/http-race.js'
import { SERVERS, type ServerPeer } from './peers/http-server.js'
import { raceLibraries } from './peers/library-race.js'
import type { List } from './peers/peer-lines.js'

const FOLDER = '.rankmill/peers'
/** Of a request where latency counts. */
const DOCUMENTS = 10
/** The model learns from so many passages. */
const TAUGHT = 800

const { values: flags } = parseArgs({
  options: {
    peers: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    lists: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(availableParallelism()) },
    quality: { type: 'string', multiple: true, default: [] },
    queries: { type: 'string', default: '20' },
    candidates: { type: 'string', default: '100' },
    requests: { type: 'string' },
    http: { type: 'boolean', default: false },
    url: { type: 'string', multiple: true, default: [] },
  },
})
const [threads, rounds, candidates] = [Number(flags.threads), Number(flags.rounds), Number(flags.candidates)]
const workshop = new Workshop(FOLDER, (line) => console.error(`bench:peers: ${line}`))
const passages = (await readPassages(packagesFolder())).map(({ text }) => text)
const lists = QUESTIONS.slice(0, Number(flags.lists)).map((query, q) => listOf(query, candidates, q * 997))
await mkdir(FOLDER, { recursive: true })
const step = Math.max(1, Math.floor(passages.length / TAUGHT))
const taught = passages.filter((_, i) => i % step === 0)
await writeFile(workshop.texts, JSON.stringify({ lists, passages: taught }))

let asked = 0
/** No two alike, so that nobody answers from memory. */
const request = () => {
  const number = asked++
  return listOf(`${QUESTIONS[number % QUESTIONS.length]} (${number})`, DOCUMENTS, number * 613)
}
const conditions = { threads, rounds }
if (flags.http || flags.url.length > 0) {
  const running = flags.url.map(
    (url): ServerPeer => ({ name: url, precision: '', dialect: 'tei', url: `${url}/rerank` }),
  )
  const started = flags.http ? chosen(SERVERS) : []
  await workshop.makeModel(new Set(started.flatMap(({ environment }) => environment ?? [])))
  const requests = Number(flags.requests ?? 48)
  printConditions('the race through HTTP', { documents: DOCUMENTS, requests, ...conditions })
  await raceServers([...started, ...running], workshop, request, { threads, rounds, requests })
} else {
  const racing = chosen(PEERS)
  await workshop.makeModel(new Set(racing.map(({ environment }) => environment)))
  const collections = await readCollections(flags.quality, Number(flags.queries), candidates)
  printConditions('the race', { pairs: lists.length * candidates, candidates, ...conditions })
  const requests = Number(flags.requests ?? 0)
  await raceLibraries(racing, workshop, lists, request, { threads, rounds, collections, requests })
}

function listOf(query: string, count: number, from: number): List {
  return {
    query,
    documents: Array.from({ length: count }, (_, i) => passages[(from + i * 31) % passages.length] ?? ''),
  }
}

function chosen<P extends { readonly name: string }>(all: readonly P[]): P[] {
  const wanted = flags.peers?.split(',') ?? all.map(({ name }) => name)
  const unknown = wanted.find((name) => all.every((peer) => peer.name !== name))
  if (unknown !== undefined) throw new Error(`--peers: ${unknown} is none of ${all.map(({ name }) => name).join(', ')}`)
  return all.filter(({ name }) => wanted.includes(name))
}
