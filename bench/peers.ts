/**
 * The race: every reranking library that installs from a registry, on one model folder, with the same pairs and cores, in turn,
 * round by round; scores compared with torch's. Python's environments are made under .rankmill/peers: some 10 GB, half an hour
 * the first time.
 *
 *   npm run bench:peers [-- --peers rankmill,st-torch] [--rounds 5] [--lists 5] [--threads N]
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { sampleRankCorrelation } from 'simple-statistics'
import { packagesFolder, readPassages } from '../cli/demo/passages.js'
import { QUESTIONS } from '../cli/demo/questions.js'
import { median, printConditions } from './conditions.js'
import { PEERS, Workshop } from './peers/environments.js'
import { type Outcome, Runner } from './peers/runner.js'

const FOLDER = '.rankmill/peers'
const CANDIDATES = 100
const REFERENCE = 'st-torch'

const { values: flags } = parseArgs({
  options: {
    peers: { type: 'string', default: PEERS.map(({ name }) => name).join(',') },
    rounds: { type: 'string', default: '5' },
    lists: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
})
const wanted = new Set(flags.peers.split(','))
const unknown = [...wanted].find((name) => PEERS.every((peer) => peer.name !== name))
if (unknown !== undefined) throw new Error(`--peers: ${unknown} is none of ${PEERS.map(({ name }) => name).join(', ')}`)
const threads = Number(flags.threads)
const racing = PEERS.filter(({ name }) => wanted.has(name))

const workshop = new Workshop(FOLDER, (line) => console.error(`bench:peers: ${line}`))
const pairs = await writeLists(Number(flags.lists))
await workshop.makeModel(new Set(racing.map(({ environment }) => environment)))

printConditions('the race', { pairs, candidates: CANDIDATES, threads, rounds: flags.rounds })
const runners: Runner[] = []
for (const peer of racing) {
  // One that does not run here does not stop the others.
  const runner = await Runner.start(peer, await workshop.command(peer, threads)).catch((error: Error) =>
    console.log(`# ${peer.name}: ${error.message}`),
  )
  if (runner) runners.push(runner)
}
for (let round = 0; round < Number(flags.rounds); round++) {
  // Turn about, so that a drift of the machine's speed meets all.
  const turn = round % 2 === 0 ? runners : [...runners].reverse()
  for (const runner of turn) await runner.round()
}
const reference = runners.find(({ outcome }) => outcome.peer.name === REFERENCE)?.outcome.scores
const lines = await Promise.all(runners.map(({ outcome }) => rowOf(outcome)))
console.log('| peer | precision | pairs/s | CPU ms a pair | rank correlation | peak memory | start | installed |')
console.log('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |')
for (const line of lines) console.log(line)
for (const runner of runners) runner.end()

async function writeLists(count: number): Promise<number> {
  const passages = await readPassages(packagesFolder())
  const lists = QUESTIONS.slice(0, count).map((query, q) => ({
    query,
    documents: Array.from({ length: CANDIDATES }, (_, i) => passages[(q * 997 + i * 31) % passages.length]?.text ?? ''),
  }))
  await mkdir(FOLDER, { recursive: true })
  await writeFile(workshop.lists, JSON.stringify(lists))
  return lists.length * CANDIDATES
}

async function rowOf({ peer, startSeconds, rounds, peakBytes, scores }: Outcome): Promise<string> {
  const rates = rounds.map(({ seconds }) => pairs / seconds)
  const cpu = rounds.map(({ cpuSeconds }) => (1000 * cpuSeconds) / pairs)
  const alike = reference ? sampleRankCorrelation([...scores], [...reference]).toFixed(4) : ''
  const range = (values: readonly number[]) =>
    `${median(values).toFixed(1)} (${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)})`
  const megabytes = (bytes: number) => `${Math.round(bytes / 1e6)} MB`
  return `| ${[
    ...[peer.name, peer.precision, range(rates), range(cpu), alike, megabytes(peakBytes)],
    ...[`${startSeconds.toFixed(1)} s`, megabytes(await workshop.size(peer.environment))],
  ].join(' | ')} |`
}
