/** What a client has on one shard of its fleet: everything of the requests whose ids are there. */
import type { Redis } from 'ioredis'
import type { CorpusShelves } from '../shared/corpus/corpus-shelves.js'
import type { ClosingStep } from '../shared/lifecycle.js'
import type { Logger } from '../shared/logger.js'
import type { Options } from '../shared/options.js'
import type { Keys } from '../shared/protocol/keys.js'
import { PoolQueues } from '../shared/redis/pool-queues.js'
import { RequestLife } from '../shared/redis/request-life.js'
import type { Shard } from '../shared/redis/shards.js'
import { WorkerRegistry } from '../shared/redis/worker-registry.js'
import { Answers } from './answers.js'
import { Submission } from './submission.js'

export class ProducerShard {
  readonly redis: Redis
  readonly keys: Keys
  readonly queues: PoolQueues
  readonly life: RequestLife
  readonly registry: WorkerRegistry
  readonly submission: Submission
  readonly answers: Answers

  /** @param model of requests that name none; null: the fleet's default */
  constructor(
    { redis, keys, count }: Shard,
    corpora: CorpusShelves,
    options: Options,
    model: string | null,
    log: Logger,
  ) {
    this.redis = redis
    this.keys = keys
    this.queues = new PoolQueues(redis, keys)
    this.life = new RequestLife(redis, keys)
    this.registry = new WorkerRegistry(redis, keys)
    this.submission = new Submission(this.queues, this.life, this.registry, corpora, options, model, count)
    this.answers = new Answers(redis, keys, this.life, options.pollIntervalMs, log)
  }

  /** What is to be closed before the connection. */
  get closing(): ClosingStep[] {
    return [
      { name: 'answers', close: () => this.answers.close() },
      { name: 'queues', close: () => this.queues.close() },
    ]
  }
}
