/**
 * Which shard of a fleet something is in, and under which prefix that shard's keys are. A shard is a whole fleet of its own
 * under its own hash tag, so in one slot of a Redis Cluster. The first one has the prefix itself, so that a fleet of one
 * shard is what a fleet was before there were any.
 */
import { hash } from 'node:crypto'

const SLOTS = 16_384

/** The shard of a request, by its id, or of a corpus, by its name: the same for whoever asks. */
export function shardOf(name: string, shards: number): number {
  return shards === 1 ? 0 : hash('sha256', name, 'buffer').readUInt32BE() % shards
}

/**
 * The prefixes of a fleet's shards: `{rankmill}`, `{rankmill:1}`, `{rankmill:2.1}`. Their slots lie in as many equal stretches
 * of all slots, so that primaries which share the slots evenly share the shards evenly.
 */
export function shardPrefixes(prefix: string, shards: number): string[] {
  const [, head = '', tag = prefix, tail = ''] = /^([^{]*\{)([^}]+)(\}.*)$/.exec(prefix) ?? []
  const stretchOf = (name: string) => Math.floor((slotOf(name) * shards) / SLOTS)
  const first = stretchOf(tag)
  return Array.from({ length: shards }, (_, shard) => {
    if (shard === 0) return prefix
    for (let i = 0; ; i++) {
      const name = `${tag}:${shard}${i === 0 ? '' : `.${i}`}`
      if (stretchOf(name) === (first + shard) % shards) return `${head}${name}${tail}`
    }
  })
}

/** CRC-16/XMODEM, as in redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec (appendix A). */
export function slotOf(tag: string): number {
  let crc = 0
  for (const byte of Buffer.from(tag)) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : crc << 1
  }
  return crc % SLOTS
}
