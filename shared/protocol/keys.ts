import { type Lane, queueName } from './lanes.js'

/** Names of everything Rankmill keeps in Redis. docs/redis.md lists them with their lifetimes and sizes. */
export interface Keys {
  readonly prefix: string
  readonly queue: string
  /** Hash: what is known of a request (fingerprint, parts, times). */
  request(id: string): string
  /** String: the result, or the error, of a request; written once. */
  result(id: string): string
  /** String: id of the request under way that others of the same content join. */
  same(what: string): string
  /** Hash: scored parts of a split request until the last one is there. */
  parts(id: string): string
  /** Set: names of the corpora that there are. */
  readonly corpora: string
  /** String: which layers make up the kept versions of a corpus, and who needs them. */
  corpusManifest(name: string): string
  /** Hash: passage id -> compressed text, as one or several changes of the corpus wrote them. */
  corpusLayer(name: string, layer: string): string
  /** String: what passages of a corpus were compressed with. */
  corpusDictionary(name: string, id: number): string
  /** Hash: passage id -> embedding, of the passages that a layer holds. */
  corpusEmbeddings(name: string, layer: string, context: string): string
  /** Hash: text hash -> embedding, one hash for each model and stretch of time. */
  embeddings(context: string, period: number): string
  /** Hash: passage hash -> score, one hash for each model and query. */
  scores(model: string, queryHash: string): string
  /** Sorted set and hash: those hashes by their last write, and how many scores each holds. */
  readonly scoresByAge: string
  readonly scoreCounts: string
  /** Sorted set and hash: workers alive, by their last heartbeat. */
  readonly workersSeen: string
  readonly workersInfo: string
  /** BullMQ's own lists of a lane's jobs that no worker has: waiting, prioritized, delayed; for back-pressure. */
  backlog(lane: Lane): readonly [string, string, string]
  /** Pub/sub: ids of requests that were answered; ids of requests that were cancelled. */
  readonly doneChannel: string
  readonly cancelChannel: string
}

export function keysOf(prefix: string, queue: string): Keys {
  const own = (what: string) => `${prefix}:${what}:${queue}`
  return Object.freeze({
    prefix,
    queue,
    request: (id: string) => `${own('request')}:${id}`,
    result: (id: string) => `${own('result')}:${id}`,
    same: (what: string) => `${own('same')}:${what}`,
    parts: (id: string) => `${own('parts')}:${id}`,
    // Corpora, scores and embeddings belong to no queue: fleets on one Redis share them.
    corpora: `${prefix}:corpora`,
    corpusManifest: (name: string) => `${prefix}:corpus-manifest:${name}`,
    corpusLayer: (name: string, layer: string) => `${prefix}:corpus-layer:${name}:${layer}`,
    corpusDictionary: (name: string, id: number) => `${prefix}:corpus-dictionary:${name}:${id}`,
    corpusEmbeddings: (name: string, layer: string, context: string) =>
      `${prefix}:corpus-embeddings:${name}:${layer}:${context}`,
    embeddings: (context: string, period: number) => `${prefix}:embeddings:${context}:${period}`,
    scores: (model: string, queryHash: string) => `${prefix}:scores:${model}:${queryHash}`,
    scoresByAge: `${prefix}:scores-by-age`,
    scoreCounts: `${prefix}:score-counts`,
    workersSeen: own('workers-seen'),
    workersInfo: own('workers-info'),
    backlog: (lane: Lane) => {
      const name = `${prefix}:${queueName(queue, lane)}`
      return [`${name}:wait`, `${name}:prioritized`, `${name}:delayed`] as const
    },
    doneChannel: own('done'),
    cancelChannel: own('cancel'),
  })
}

/** BullMQ's id of one part of a request; BullMQ forbids ':' and whole numbers as ids. */
export function jobIdOf(requestId: string, part: number): string {
  return `${encodeURIComponent(requestId)}.${part}`
}
