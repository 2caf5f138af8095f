/**
 * Embeddings beside the passages of a corpus: one hash for each layer and model, by passage id. A value begins with the
 * hash of the stored passage that it was made from, and counts only as long as this is what the layer holds: whatever is
 * put, merged or deleted meanwhile, a changed passage never meets an old embedding.
 */
import type { Redis } from 'ioredis'
import type { Keys } from '../protocol/keys.js'
import type { Layer } from './manifest.js'

/** Hexadecimal digits of the passage's SHA-1. */
const TAG = 16

/**
 * The manifest, then for each id what its uppermost layer has: `e` and the embedding, `t` and the stored passage where
 * there is no embedding of it, or nothing. Keys: the manifest, the layers uppermost first, the embeddings beside them.
 */
const READ = `
local layers = tonumber(ARGV[1])
local found = {redis.call('GET', KEYS[1]) or ''}
for i = 2, #ARGV do
  local entry = ''
  for j = 2, 1 + layers do
    local passage = redis.call('HGET', KEYS[j], ARGV[i])
    if passage then
      if passage ~= '' then
        local embedding = redis.call('HGET', KEYS[j + layers], ARGV[i])
        if embedding and string.sub(embedding, 1, ${TAG}) == string.sub(redis.sha1hex(passage), 1, ${TAG}) then
          entry = 'e' .. string.sub(embedding, ${TAG + 1})
        else
          entry = 't' .. passage
        end
      end
      break
    end
  end
  found[i] = entry
end
return found
`

/**
 * A page of a layer: the cursor, how many of its passages have an embedding, then the hash, the id and the value of each
 * that has none. Passages that a layer above has are passed over. Keys: the layer, the embeddings, the layers above.
 */
const PAGE_OF = `
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local lacking, present = {}, 0
for i = 1, #page[2], 2 do
  local id, passage = page[2][i], page[2][i + 1]
  local counts = passage ~= ''
  for j = 3, #KEYS do
    if redis.call('HEXISTS', KEYS[j], id) == 1 then counts = false end
  end
  if counts then
    local tag = string.sub(redis.sha1hex(passage), 1, ${TAG})
    local embedding = redis.call('HGET', KEYS[2], id)
    if embedding and string.sub(embedding, 1, ${TAG}) == tag then
      present = present + 1
    else
      lacking[#lacking + 1] = tag
      lacking[#lacking + 1] = id
      lacking[#lacking + 1] = passage
    end
  end
end
return {page[1], present, lacking}
`

/** Stores embeddings of passages that the layer still holds as they were. Returns how many. */
const STORE = `
local stored = 0
for i = 1, #ARGV, 2 do
  local passage = redis.call('HGET', KEYS[1], ARGV[i])
  if passage and string.sub(redis.sha1hex(passage), 1, ${TAG}) == string.sub(ARGV[i + 1], 1, ${TAG}) then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    stored = stored + 1
  end
end
return stored
`

interface EmbeddingCommands {
  rankmillEmbeddingsReadBuffer(...args: (string | number)[]): Promise<Buffer[]>
  rankmillEmbeddingsPageBuffer(...args: (string | number)[]): Promise<[Buffer, number, Buffer[]]>
  rankmillEmbeddingsStore(...args: (string | number | Buffer)[]): Promise<number>
}

/** A passage without an embedding. */
export interface LackingPassage {
  readonly tag: Buffer
  readonly id: Buffer
  /** As it is stored. */
  readonly value: Buffer
}

/** What is there of a passage: its embedding, or the passage as it is stored; undefined where there is no passage. */
export type StoredEntry = { readonly embedding: Buffer } | { readonly value: Buffer } | undefined

/** Ids in one script call: about two milliseconds of Redis's time. */
const CHUNK = 500
/** Passages that a page of a scan looks at, about. */
const PAGE = 200

export class EmbeddingStore {
  readonly #redis: Redis & EmbeddingCommands
  readonly #keys: Keys

  constructor(redis: Redis, keys: Keys) {
    redis.defineCommand('rankmillEmbeddingsRead', { lua: READ })
    redis.defineCommand('rankmillEmbeddingsPage', { lua: PAGE_OF })
    redis.defineCommand('rankmillEmbeddingsStore', { numberOfKeys: 2, lua: STORE })
    this.#redis = redis as Redis & EmbeddingCommands
    this.#keys = keys
  }

  /** @returns for each chunk of ids the text of the manifest that was there; and the entries, in the ids' order */
  async read(
    name: string,
    layers: readonly Layer[],
    context: string,
    ids: readonly string[],
  ): Promise<{ manifests: string[]; entries: StoredEntry[] }> {
    const keys = [
      this.#keys.corpusManifest(name),
      ...layers.map(({ id }) => this.#keys.corpusLayer(name, id)),
      ...layers.map(({ id }) => this.#keys.corpusEmbeddings(name, id, context)),
    ]
    const chunks: Promise<Buffer[]>[] = []
    for (let i = 0; i < ids.length; i += CHUNK) {
      const chunk = ids.slice(i, i + CHUNK)
      chunks.push(this.#redis.rankmillEmbeddingsReadBuffer(keys.length, ...keys, layers.length, ...chunk))
    }
    const replies = await Promise.all(chunks)
    return {
      manifests: replies.map(([manifest]) => manifest?.toString() ?? ''),
      entries: replies.flatMap(([, ...entries]) => entries.map(entryOf)),
    }
  }

  /** @param layers the one that is scanned, then those above it */
  async page(
    name: string,
    layers: readonly Layer[],
    context: string,
    cursor: string,
  ): Promise<{ cursor: string; present: number; lacking: LackingPassage[] }> {
    const [own, ...above] = layers.map(({ id }) => this.#keys.corpusLayer(name, id))
    const keys = [own ?? '', this.#keys.corpusEmbeddings(name, layers[0]?.id ?? '', context), ...above]
    const [next, present, flat] = await this.#redis.rankmillEmbeddingsPageBuffer(keys.length, ...keys, cursor, PAGE)
    const lacking: LackingPassage[] = []
    for (let i = 0; i + 2 < flat.length; i += 3) {
      const [tag, id, value] = flat.slice(i, i + 3)
      if (tag && id && value) lacking.push({ tag, id, value })
    }
    return { cursor: next.toString(), present, lacking }
  }

  /** @returns how many were stored: not those of passages that have changed since */
  store(
    name: string,
    layer: Layer,
    context: string,
    embeddings: readonly { readonly passage: LackingPassage; readonly embedding: Buffer }[],
  ): Promise<number> {
    const fields = embeddings.flatMap(({ passage: { tag, id }, embedding }) => [id, Buffer.concat([tag, embedding])])
    return this.#redis.rankmillEmbeddingsStore(
      this.#keys.corpusLayer(name, layer.id),
      this.#keys.corpusEmbeddings(name, layer.id, context),
      ...fields,
    )
  }
}

function entryOf(entry: Buffer): StoredEntry {
  if (entry.length === 0) return undefined
  const rest = entry.subarray(1)
  return entry[0] === 'e'.charCodeAt(0) ? { embedding: rest } : { value: rest }
}
