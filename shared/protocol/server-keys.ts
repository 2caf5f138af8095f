/** Names of what API servers keep in Redis, beside what `keys.ts` names. docs/redis.md lists them. */

export interface ServerKeys {
  /** Hash: API key id -> what is known of it, its secret hashed. */
  readonly apiKeys: string
  /** Hash: API key id -> when it was last used, milliseconds since 1970. */
  readonly apiKeysUsed: string
  /** Hash: how much of its limits an API key has used. */
  limits(owner: string): string
  /** Sorted set and hash: work that an API key has under way, by when it is forgotten; and its pairs. */
  outstanding(owner: string): readonly [string, string]
  /** String: what is known of an asynchronous job, beyond what its request says. */
  job(id: string): string
  /** Sorted set: asynchronous jobs of an owner, by submission. */
  jobs(owner: string): string
  /** Sorted set: asynchronous jobs that are not known to have ended, by when to look at them again. */
  readonly openJobs: string
  /** String: what is known of a file. */
  file(id: string): string
  /** Sorted set: files of an owner, by creation. */
  files(owner: string): string
  /** Sorted set: files by expiry. */
  readonly filesByExpiry: string
  /** Hash: a batch's record, its lease with its number, and whether it was cancelled. */
  batch(id: string): string
  /** Sorted set: batches of an owner, by creation. */
  batches(owner: string): string
  /** Sorted set: batches that have not ended, by creation. */
  readonly openBatches: string
  /** Name of the BullMQ queue of webhooks. */
  readonly webhookQueue: string
}

export function serverKeysOf(prefix: string, queue: string): ServerKeys {
  const own = (what: string) => `${prefix}:${what}:${queue}`
  return Object.freeze({
    // Keys belong to no queue: one key is good for every fleet on a Redis.
    apiKeys: `${prefix}:api-keys`,
    apiKeysUsed: `${prefix}:api-keys-used`,
    limits: (owner: string) => `${own('limits')}:${owner}`,
    outstanding: (owner: string) => [`${own('outstanding')}:${owner}`, `${own('outstanding-pairs')}:${owner}`] as const,
    job: (id: string) => `${own('async-job')}:${id}`,
    jobs: (owner: string) => `${own('async-jobs')}:${owner}`,
    openJobs: own('async-jobs-open'),
    file: (id: string) => `${own('file')}:${id}`,
    files: (owner: string) => `${own('files')}:${owner}`,
    filesByExpiry: own('files-by-expiry'),
    batch: (id: string) => `${own('batch')}:${id}`,
    batches: (owner: string) => `${own('batches')}:${owner}`,
    openBatches: own('batches-open'),
    webhookQueue: `${queue}-webhooks`,
  })
}
