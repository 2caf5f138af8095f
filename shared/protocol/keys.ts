/** Names of everything Rankmill keeps in Redis. docs/redis.md lists them with their lifetimes and sizes. */
export interface Keys {
  readonly prefix: string
  readonly queue: string
  /** Hash: what is known of a request; its fields are named in shared/redis/request-scripts.ts. */
  request(id: string): string
  /** String: the result, or the error, of a request; written once a generation. */
  result(id: string): string
  /** Hash: which request under way others of the same content join, and how many have. */
  same(what: string): string
  /** Hash: scored parts of a split request until the last one is there. */
  parts(id: string): string
  /** Sorted set: unanswered requests, by when somebody should look after them. */
  readonly open: string
  /** Hash: jobs and bytes of each pool's lanes that no worker has taken yet; what is promised counts. */
  readonly load: string
  /** Hash: the pools that there are, by when a request was last noted for them. */
  readonly pools: string
  /** Hash: the last generation, and the model of requests that name none. */
  readonly fleet: string
  /** Hash: how requests ended, by pool, lane and outcome. */
  readonly ends: string
  /** String: the worker that looks after requests whose owners died. */
  readonly caretaker: string
  /** Hash: the jobs that a worker has in hand. */
  held(worker: string): string
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
  /** Pub/sub: names of pools that requests were noted for and that not every worker watches. */
  readonly bellChannel: string
  /** Pub/sub: ids of requests that were answered; `<generation> <id>` of those that were cancelled. */
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
    open: own('open'),
    load: own('load'),
    pools: own('pools'),
    fleet: own('fleet'),
    ends: own('ends'),
    caretaker: own('caretaker'),
    held: (worker: string) => `${own('held')}:${worker}`,
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
    bellChannel: own('bell'),
    doneChannel: own('done'),
    cancelChannel: own('cancel'),
  })
}

/** BullMQ's id of one part of a request's generation; BullMQ forbids ':' and whole numbers as ids. */
export function jobIdOf(requestId: string, generation: number, part: number): string {
  return `${encodeURIComponent(requestId)}.${generation}.${part}`
}

/** Which part of which request a job is, by its id; undefined for those of release 0.1.0. */
export function partOfJob(jobId: string): { requestId: string; generation: number; part: number } | undefined {
  const [, id = '', generation, part] = /^(.*)\.(\d+)\.(\d+)$/.exec(jobId) ?? []
  if (generation === undefined) return undefined
  return { requestId: decodeURIComponent(id), generation: Number(generation), part: Number(part) }
}
