/** A Redis Cluster of a test's own: three primaries, and a replica of one of them. */
import { freePort, type OwnRedis } from './own-redis.js'
import { until } from './stage.js'

const SLOTS = 16_384
const PRIMARIES = 3

export class OwnCluster {
  /** Three primaries, then the replica. */
  readonly nodes: readonly OwnRedis[]

  /** @param start as of useOwnRedis */
  static async start(start: (flags?: readonly string[], port?: number) => Promise<OwnRedis>): Promise<OwnCluster> {
    const nodes: OwnRedis[] = []
    for (let i = 0; i <= PRIMARIES; i++) {
      const bus = await freePort()
      const flags = ['--cluster-enabled', 'yes', '--cluster-port', String(bus), '--cluster-node-timeout', '1000']
      nodes.push(await start([...flags, '--cluster-replica-validity-factor', '0']))
      const { admin } = nodes[i] as OwnRedis
      if (i < PRIMARIES) {
        await admin.call('CLUSTER', 'SET-CONFIG-EPOCH', i + 1)
        const [from, to] = [Math.ceil((i * SLOTS) / PRIMARIES), Math.ceil(((i + 1) * SLOTS) / PRIMARIES) - 1]
        await admin.call('CLUSTER', 'ADDSLOTSRANGE', from, to)
      }
      if (i > 0) {
        const [first] = nodes as [OwnRedis]
        await first.admin.call('CLUSTER', 'MEET', '127.0.0.1', nodes[i]?.port ?? 0, bus)
      }
    }
    const cluster = new OwnCluster(nodes)
    await cluster.#untilAgreed()
    return cluster
  }

  private constructor(nodes: readonly OwnRedis[]) {
    this.nodes = nodes
  }

  /** Two of its nodes. */
  get url(): string {
    return `redis+cluster://127.0.0.1:${this.nodes[0]?.port},127.0.0.1:${this.nodes[1]?.port}`
  }

  /** The primary that has a key's slot, by what it says itself. */
  async ownerOf(key: string): Promise<OwnRedis> {
    for (const node of this.nodes) {
      const answer = await node.admin.exists(key).catch((error: Error) => error)
      if (!(answer instanceof Error)) return node
    }
    throw new Error(`no node has the slot of ${key}`)
  }

  other(than: readonly OwnRedis[]): OwnRedis {
    return this.nodes.slice(0, PRIMARIES).find((node) => !than.includes(node)) as OwnRedis
  }

  /** Makes the fourth node the replica of a primary, and waits until it has all that this one has. */
  async replicate(primary: OwnRedis): Promise<OwnRedis> {
    const replica = this.nodes[PRIMARIES] as OwnRedis
    await replica.admin.call('CLUSTER', 'REPLICATE', await idOf(primary))
    await until('the replica has caught up', async () =>
      /master_link_status:up/.test(await replica.admin.info('replication')),
    )
    return replica
  }

  /**
   * Moves a key's slot as `redis-cli --cluster reshard` does.
   *
   * @param halfWay called when some of the keys have moved
   */
  async moveSlot(key: string, to: OwnRedis, halfWay: () => Promise<unknown>): Promise<void> {
    const from = await this.ownerOf(key)
    const slot = await from.admin.cluster('KEYSLOT', key)
    await to.admin.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', await idOf(from))
    await from.admin.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', await idOf(to))
    const all = await from.admin.cluster('COUNTKEYSINSLOT', slot)
    let moved = 0
    let told = false
    for (;;) {
      const keys = (await from.admin.call('CLUSTER', 'GETKEYSINSLOT', slot, 50)) as string[]
      if (keys.length === 0) break
      await from.admin.call('MIGRATE', '127.0.0.1', to.port, '', 0, 5000, 'KEYS', ...keys)
      moved += keys.length
      if (!told && moved >= all / 2) {
        told = true
        await halfWay()
      }
    }
    for (const node of [to, from, ...this.nodes]) {
      await node.admin.call('CLUSTER', 'SETSLOT', slot, 'NODE', await idOf(to)).catch(() => undefined)
    }
  }

  async #untilAgreed(): Promise<void> {
    for (const { admin } of this.nodes) {
      await until('the cluster is one', async () => {
        const info = String(await admin.call('CLUSTER', 'INFO'))
        return /cluster_state:ok/.test(info) && /cluster_known_nodes:4/.test(info)
      })
    }
  }
}

async function idOf({ admin }: OwnRedis): Promise<string> {
  return String(await admin.call('CLUSTER', 'MYID'))
}
