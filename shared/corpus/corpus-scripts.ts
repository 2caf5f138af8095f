/** The Lua scripts of corpora: each is one step that must happen whole or not at all. */
import type { Redis } from 'ioredis'

/**
 * Adds one chunk to a layer that nobody sees yet. Under '', which is nobody's id, the layer counts its chunks until it
 * is published. A chunk that arrives again after a broken connection is ignored.
 * Returns 0; the place, from 1, of an id that the layer has already; or -1 where the layer is gone.
 */
const STAGE = `
local last = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local chunk = tonumber(ARGV[2])
if chunk <= last then return 0 end
if chunk ~= last + 1 then return -1 end
for i = 3, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) == 0 then return (i - 1) / 2 end
end
redis.call('HSET', KEYS[1], '', chunk)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
`

/**
 * Keeps a layer for longer, or drops it (0 ms); never one that is published, whatever its writer knows of that: the reply
 * may have been lost.
 */
const TOUCH = `
if redis.call('HEXISTS', KEYS[1], '') == 0 then return 0 end
if ARGV[1] == '0' then return redis.call('UNLINK', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
`

/**
 * Replaces the manifest if it is still the one that was read, and with it: makes a layer of so many chunks permanent,
 * stores dictionaries, drops what is no longer named. Returns 1; 0 where the manifest is another; -1 where the layer is
 * gone.
 */
const CHANGE = `
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 3, #KEYS do
  if ARGV[2 * i - 1] == 'publish' and redis.call('HGET', KEYS[i], '') ~= ARGV[2 * i] then return -1 end
end
for i = 3, #KEYS do
  local step, value = ARGV[2 * i - 1], ARGV[2 * i]
  if step == 'publish' then
    redis.call('HDEL', KEYS[i], '')
    redis.call('PERSIST', KEYS[i])
  elseif step == 'store' then
    redis.call('SET', KEYS[i], value)
  else
    redis.call('UNLINK', KEYS[i])
  end
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call(ARGV[3], KEYS[2], ARGV[4])
return 1
`

/**
 * Moves some passages from the upper layer to the lower one, while the manifest names the upper one; and with them their
 * embeddings, of which there are pairs of keys, lower and upper, behind those of the layers.
 */
const MERGE = `
local manifest = redis.call('GET', KEYS[1])
if not manifest or not string.find(manifest, ARGV[1], 1, true) then return {'0', 0} end
local page = redis.call('HSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3])
for i = 1, #page[2], 2 do
  local id, value = page[2][i], page[2][i + 1]
  if value == '' and ARGV[4] == 'drop' then
    redis.call('HDEL', KEYS[2], id)
  else
    redis.call('HSET', KEYS[2], id, value)
  end
  redis.call('HDEL', KEYS[3], id)
  for j = 4, #KEYS, 2 do
    local embedding = redis.call('HGET', KEYS[j + 1], id)
    if embedding then
      redis.call('HSET', KEYS[j], id, embedding)
      redis.call('HDEL', KEYS[j + 1], id)
    else
      redis.call('HDEL', KEYS[j], id)
    end
  end
end
return {page[1], redis.call('HLEN', KEYS[3])}
`

/** How many passages more, or fewer, there are with the first of the layers than with those below it alone. */
const COUNT = `
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local change = 0
for i = 1, #page[2], 2 do
  local was = 0
  for j = 2, #KEYS do
    if redis.call('HEXISTS', KEYS[j], page[2][i]) == 1 then
      if redis.call('HSTRLEN', KEYS[j], page[2][i]) > 0 then was = 1 end
      break
    end
  end
  local is = 1
  if page[2][i + 1] == '' then is = 0 end
  change = change + is - was
end
return {page[1], change}
`

interface CorpusCommands {
  rankmillCorpusStage(...args: (string | number | Buffer)[]): Promise<number>
  rankmillCorpusTouch(...args: (string | number)[]): Promise<number>
  rankmillCorpusChange(...args: (string | number | Buffer)[]): Promise<number>
  rankmillCorpusMerge(...args: (string | number)[]): Promise<[cursor: string, left: number]>
  rankmillCorpusCount(...args: (string | number)[]): Promise<[cursor: string, change: number]>
}

/** What happens to a key together with a change of the manifest. */
export type KeyStep =
  | { readonly key: string; readonly publish: number }
  | { readonly key: string; readonly store: Buffer }
  | { readonly key: string; readonly drop: true }

/** Passages that one step of merging or counting handles: well under a millisecond of Redis's time. */
const PAGE = 200

export class CorpusScripts {
  readonly #redis: Redis & CorpusCommands

  constructor(redis: Redis) {
    redis.defineCommand('rankmillCorpusStage', { numberOfKeys: 1, lua: STAGE })
    redis.defineCommand('rankmillCorpusTouch', { numberOfKeys: 1, lua: TOUCH })
    redis.defineCommand('rankmillCorpusChange', { lua: CHANGE })
    redis.defineCommand('rankmillCorpusMerge', { lua: MERGE })
    redis.defineCommand('rankmillCorpusCount', { lua: COUNT })
    this.#redis = redis as Redis & CorpusCommands
  }

  /** @param fields ids and values in turn */
  stage(layer: string, ttlMs: number, chunk: number, fields: (string | Buffer)[]): Promise<number> {
    return this.#redis.rankmillCorpusStage(layer, ttlMs, chunk, ...fields)
  }

  /** Another lifetime for a layer that is not published; 0 drops it. */
  async touch(layer: string, ttlMs: number): Promise<void> {
    await this.#redis.rankmillCorpusTouch(layer, ttlMs)
  }

  change(
    manifest: { key: string; from: string; to: string },
    names: { key: string; name: string; listed: boolean },
    steps: readonly KeyStep[],
  ): Promise<number> {
    const keys = [manifest.key, names.key, ...steps.map(({ key }) => key)]
    const args = steps.flatMap((step): (string | number | Buffer)[] => {
      if ('publish' in step) return ['publish', step.publish]
      return 'store' in step ? ['store', step.store] : ['drop', '']
    })
    const listing = [names.listed ? 'SADD' : 'SREM', names.name]
    return this.#redis.rankmillCorpusChange(keys.length, ...keys, manifest.from, manifest.to, ...listing, ...args)
  }

  /**
   * Moves everything; stops early where the manifest no longer names the upper layer.
   *
   * @param keys of the manifest, the lower and the upper layer, then of the embeddings beside each, in pairs
   */
  async merge(keys: readonly string[], upperId: string, keepDeletions: boolean): Promise<void> {
    const deletions = keepDeletions ? 'keep' : 'drop'
    let [cursor, left] = ['0', 0]
    do {
      ;[cursor, left] = await this.#redis.rankmillCorpusMerge(keys.length, ...keys, upperId, cursor, PAGE, deletions)
    } while (cursor !== '0' || left > 0)
  }

  /** @param layers uppermost first */
  async countChange(layers: readonly string[]): Promise<number> {
    let [cursor, total] = ['0', 0]
    do {
      const [next, change] = await this.#redis.rankmillCorpusCount(layers.length, ...layers, cursor, PAGE)
      cursor = next
      total += change
    } while (cursor !== '0')
    return total
  }
}
