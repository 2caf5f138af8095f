/**
 * What a Redis URL names:
 *
 *   redis://[user:password@]host[:port][/database]                              one server
 *   redis+cluster://[user:password@]host[:port][,host[:port]…]                  a Redis Cluster, by some of its nodes
 *   redis+sentinel://[user:password@]host[:port][,host[:port]…]/name[/database] the primary that sentinels call so
 *
 * `rediss` instead of `redis` encrypts. User and password are those of the servers; sentinels have their own, as
 * `?sentinelUsername=…&sentinelPassword=…`.
 */
import { RankmillError } from '../errors.js'

export interface RedisNode {
  readonly host: string
  readonly port: number
}

export interface RedisAddress {
  readonly kind: 'server' | 'cluster' | 'sentinel'
  /** What ioredis takes: of several nodes the first, with all that is said of user, password and database. */
  readonly url: URL
  readonly nodes: readonly RedisNode[]
  /** What sentinels call the primary; '' where there are none. */
  readonly primary: string
  readonly tls: boolean
  /** Without secrets, for logs and messages. */
  readonly shown: string
}

const SEVERAL = /^(rediss?)\+(cluster|sentinel):\/\/(?:([^@/?#]*)@)?([^/?#]*)([^?#]*)(\?[^#]*)?$/
const SENTINEL_PATH = /^\/([\w.-]+)(\/\d+)?$/
const DEFAULT_PORTS = { server: 6379, cluster: 6379, sentinel: 26_379 } as const

/**
 * Refuses what would be taken apart otherwise than it was meant, as a password with a bare # or / is.
 *
 * @throws RankmillError `invalid_configuration`, which shows no password
 */
export function parseRedisUrl(text: string): RedisAddress {
  if (!/^rediss?\+/.test(text)) return server(text)
  const [, scheme = '', kind, credentials, hosts = '', path = '', query = ''] = SEVERAL.exec(text) ?? []
  if (kind !== 'cluster' && kind !== 'sentinel') {
    throw refused('must be like redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/name')
  }
  const [, primary = '', database = ''] = kind === 'sentinel' ? (SENTINEL_PATH.exec(path) ?? []) : []
  if (kind === 'sentinel' && primary === '') {
    throw refused('the name that the sentinels know the primary by has to follow them: …/mymaster')
  }
  if (kind === 'cluster' && !/^\/?0?$/.test(path)) throw refused('a Redis Cluster has one database only, 0')
  const before = `${scheme}://${credentials === undefined ? '' : `${credentials}@`}`
  const parsed = hosts.split(',').map((host) => server(`${before}${host}${database}${query}`))
  const [first] = parsed
  if (!first || parsed.some(({ url }) => url.hostname === ''))
    throw refused('a node is missing before or after a comma')
  const nodes = parsed.map(({ url }) => nodeOf(url, DEFAULT_PORTS[kind]))
  const { url } = first
  const user = url.username || url.password ? `${url.username}${url.password ? ':***' : ''}@` : ''
  const shown = `${scheme}+${kind}://${user}${hosts}${path}${query ? '?***' : ''}`
  return { kind, url, nodes, primary, tls: scheme === 'rediss', shown }
}

function server(text: string): RedisAddress {
  let url: URL
  try {
    url = new URL(text)
    decodeURIComponent(url.username + url.password)
  } catch {
    throw refused('must be a URL like redis://127.0.0.1:6379, with %23 for # and the like in a password')
  }
  if (!['redis:', 'rediss:'].includes(url.protocol)) {
    throw refused(
      `must begin with redis:// or rediss://, redis+cluster:// or redis+sentinel:// and the like, got ${url.protocol}//`,
    )
  }
  if (url.hash || !/^(\/\d*)?$/.test(url.pathname)) {
    throw refused('only the number of a database may follow the host; write / # ? @ in a password as %2F %23 %3F %40')
  }
  const shown = new URL(url)
  if (shown.password) shown.password = '***'
  // ioredis takes any option from here, a password too; of a socket the path is all there is to know.
  const { searchParams } = url
  const isPathAlone = searchParams.size === 1 && searchParams.has('path')
  if (shown.search && !isPathAlone) shown.search = '?***'
  const nodes = [nodeOf(url, DEFAULT_PORTS.server)]
  return { kind: 'server', url, nodes, primary: '', tls: url.protocol === 'rediss:', shown: shown.href }
}

/** IPv6 addresses stand in brackets in URLs, and nowhere else. */
function nodeOf({ hostname, port }: URL, defaultPort: number): RedisNode {
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? defaultPort : Number(port) }
}

function refused(why: string): RankmillError {
  return new RankmillError('invalid_configuration', `--redis: ${why}`, { param: 'redis' })
}
