/**
 * The one place where what Redis, ioredis and BullMQ throw becomes an error of Rankmill: its code, whether it passes, what
 * to do. Nothing that was sent to Redis goes along: ioredis hangs the arguments of the failed command on its errors
 * (passwords, texts), and some replies quote them, so the messages here are our own and there is no `cause`.
 *
 * Reply codes: redis.io/docs/latest/develop/reference/protocol-spec (simple errors) and Redis's server.c, `shared.*err`.
 */
import { type ErrorCode, RankmillError } from '../errors.js'

/** What a failed call to Redis means. */
export interface RedisFault {
  readonly code: ErrorCode
  /** It ends without anybody correcting anything in Rankmill: whoever can wait, waits (`untilPasses`). */
  readonly passes: boolean
  /** What happened, in our own words. */
  readonly says: string
  readonly advice: string
}

/** The codes of faults that pass. */
export const PASSING: ReadonlySet<ErrorCode> = new Set(['redis_unavailable', 'redis_read_only', 'redis_full'])

const fault = (code: ErrorCode, says: string, advice: string): RedisFault => ({
  code,
  passes: PASSING.has(code),
  says,
  advice,
})

const AGAIN = 'this passes by itself'
const CLUSTER_ADVICE = 'name the cluster: redis+cluster://host:port'

/** By the first word of an error reply. */
const REPLIES: Readonly<Record<string, RedisFault>> = {
  OOM: fault('redis_full', 'Redis has no memory left (OOM)', 'give it more, or wait until results expire'),
  READONLY: fault(
    'redis_read_only',
    'Redis is a replica, which takes no writes (READONLY)',
    'after a failover this passes; where it stays, name the primary',
  ),
  MISCONF: fault(
    'redis_read_only',
    'Redis takes no writes because it cannot save its data (MISCONF)',
    'make room on its disk, or let it write to its folder; its log says why',
  ),
  NOREPLICAS: fault(
    'redis_read_only',
    'Redis takes no writes because too few replicas follow it (NOREPLICAS)',
    'this passes when they are back',
  ),
  LOADING: fault('redis_unavailable', 'Redis is loading its data (LOADING)', AGAIN),
  MASTERDOWN: fault(
    'redis_unavailable',
    'Redis is a replica that has lost its primary (MASTERDOWN)',
    'after a failover this passes; where it stays, name the primary',
  ),
  CLUSTERDOWN: fault('redis_unavailable', 'the Redis Cluster is down (CLUSTERDOWN)', 'bring its primaries back'),
  TRYAGAIN: fault('redis_unavailable', 'the Redis Cluster is moving these keys (TRYAGAIN)', AGAIN),
  BUSY: fault('redis_unavailable', 'Redis is busy running a script (BUSY)', AGAIN),
  UNBLOCKED: fault('redis_unavailable', 'Redis became a replica meanwhile (UNBLOCKED)', AGAIN),
  NOSCRIPT: fault('redis_unavailable', 'Redis has forgotten a script (NOSCRIPT)', AGAIN),
  EXECABORT: fault('redis_unavailable', 'Redis refused a transaction (EXECABORT)', 'try again'),
  MOVED: fault('redis_misconfigured', 'Redis is one node of a cluster (MOVED)', CLUSTER_ADVICE),
  ASK: fault('redis_misconfigured', 'Redis is one node of a cluster (ASK)', CLUSTER_ADVICE),
  CROSSSLOT: fault(
    'redis_misconfigured',
    'keys that belong together are in several slots of the Redis Cluster (CROSSSLOT)',
    'keep the braces in --prefix',
  ),
  NOAUTH: fault('redis_denied', 'Redis wants a password (NOAUTH)', 'give user and password in the URL'),
  WRONGPASS: fault('redis_denied', 'Redis refused the password or user (WRONGPASS)', 'correct them in the URL'),
  NOPERM: fault('redis_denied', 'the Redis user may not do this (NOPERM)', 'grant what docs/redis.md lists'),
  DENIED: fault('redis_denied', 'Redis is in protected mode (DENIED)', 'set a password, or bind it to this host only'),
}

/** Of `ERR`, which says everything else. */
const ERR_REPLIES: readonly (readonly [RegExp, RedisFault])[] = [
  [
    /max number of clients/,
    fault('redis_unavailable', 'Redis has no connection left (maxclients)', 'raise maxclients'),
  ],
  [
    /invalid password|without any password|no password is set|wrong number of arguments for 'auth'/i,
    fault('redis_denied', 'Redis refused the password or user', 'correct them in the URL'),
  ],
  [/unauthenticated/, fault('redis_denied', 'Redis wants a password', 'give user and password in the URL')],
  // Redis 7 has no code for what a script's user may not do.
  [
    /user executing the script can't/i,
    fault('redis_denied', 'the Redis user may not do this', 'grant what docs/redis.md lists'),
  ],
  [
    /unknown (redis )?(sub)?command/i,
    fault('redis_misconfigured', 'Redis lacks a command', 'use Redis 6.2 or newer with no command renamed'),
  ],
  [
    /DB index is out of range/i,
    fault('redis_misconfigured', 'Redis has no database of that number', 'correct the URL'),
  ],
  [
    /cluster support disabled/i,
    fault('redis_misconfigured', 'Redis is no cluster', 'name it without +cluster: redis://host:port'),
  ],
  [
    /SELECT is not allowed in cluster mode/i,
    fault('redis_misconfigured', 'a Redis Cluster has one database only', 'take the number off the URL'),
  ],
]

/** Scripts pass on what a command in them was refused with; before Redis 7 inside a sentence that begins with ERR. */
const IN_SCRIPT = new RegExp(`[-\\s](${Object.keys(REPLIES).join('|')}) `)

const AWAY_ADVICE = 'check that it runs and can be reached'
const away = (says: string) => fault('redis_unavailable', says, AWAY_ADVICE)

/** What ioredis says by itself. */
const CONNECTION: readonly (readonly [RegExp, RedisFault])[] = [
  [/^Command timed out/, away('Redis did not answer in time')],
  [/^Socket timeout\. Expecting data/, away('Redis went silent')],
  [
    /^Stream isn't writeable|^Connection is closed|^Command aborted due to connection close/,
    away('the connection to Redis is gone'),
  ],
  [/^Reached the max retries per request limit/, away('Redis cannot be reached')],
  [/^All sentinels are unreachable/, away('no Redis node can be reached')],
  [/Please report this\.$|^Protocol error/, away('what answers is no Redis')],
]

const ERRNO =
  /^(ECONN\w+|EPIPE|ETIMEDOUT|E(HOST|NET)(UNREACH|DOWN)|ENOTFOUND|EAI_\w+|ENOTCONN|EADDRNOTAVAIL|ERR_STREAM_\w+|ERR_SOCKET_CLOSED)$/
const SOCKET_CALLS: ReadonlySet<unknown> = new Set(['connect', 'read', 'write', 'getaddrinfo', 'shutdown'])
const TLS = /^(ERR_TLS_\w+|ERR_SSL_\w+|EPROTO|CERT_\w+|UNABLE_TO_\w+|(DEPTH_ZERO_)?SELF_SIGNED_\w+|HOSTNAME_MISMATCH)$/
const TLS_ADVICE = 'check rediss:// against what the server speaks, and name its authority in NODE_EXTRA_CA_CERTS'

/** How deep errors inside errors are looked through. */
const DEEPEST = 5
/** Bytes of an unknown reply that are shown. */
const SHOWN = 200

type Wrapping = Error & {
  code?: unknown
  syscall?: unknown
  command?: unknown
  previousErrors?: unknown
  lastNodeError?: unknown
  errors?: unknown
}

/**
 * What an error of ioredis or BullMQ means, also one that wraps another: the innermost that says something counts.
 *
 * @returns undefined where the error comes from elsewhere
 */
export function redisFault(cause: unknown, depth = 0): RedisFault | undefined {
  if (!(cause instanceof Error) || cause instanceof RankmillError || depth > DEEPEST) return undefined
  const error: Wrapping = cause
  const { previousErrors, lastNodeError, errors } = error
  for (const inner of [...listed(previousErrors), lastNodeError, ...listed(errors), error.cause]) {
    const found = redisFault(inner, depth + 1)
    if (found) return found
  }
  return replied(error) ?? unreached(error)
}

/**
 * The error that leaves: says what happened and what to do, and holds nothing of what was sent.
 *
 * @param cause anything thrown by a call to Redis; a RankmillError passes through unchanged
 */
export function redisError(cause: unknown): RankmillError {
  if (cause instanceof RankmillError) return cause
  const found = redisFault(cause)
  return found ? new RankmillError(found.code, `${found.says}: ${found.advice}`) : RankmillError.from(cause)
}

function listed(errors: unknown): unknown[] {
  return Array.isArray(errors) ? errors : []
}

function replied(error: Wrapping): RedisFault | undefined {
  const { message } = error
  const code = /^-?([A-Z]+) /.exec(message)?.[1] ?? ''
  const known = REPLIES[code]
  if (known) return code === 'NOPERM' ? { ...known, says: denied(message) } : known
  if (error.name !== 'ReplyError') return undefined
  const inside = REPLIES[IN_SCRIPT.exec(message)?.[1] ?? '']
  if (inside) return inside
  for (const [pattern, meaning] of ERR_REPLIES) if (pattern.test(message)) return meaning
  return fault('internal', `Redis refused a command: ${withoutQuotes(message)}`, 'please report it')
}

/** Redis names the command, never the key. */
function denied(message: string): string {
  const command = /'([\w|-]+)' command/.exec(message)?.[1]
  const what = command ? `run ${command.toUpperCase()}` : /channel/.test(message) ? 'use this channel' : 'use this key'
  return `the Redis user may not ${what} (NOPERM)`
}

function unreached(error: Wrapping): RedisFault | undefined {
  const { message, code, syscall, name } = error
  for (const [pattern, meaning] of CONNECTION) if (pattern.test(message)) return meaning
  if (typeof code === 'number' && code < 0) {
    // BullMQ's own, of a job whose lock or state is another than it was.
    return fault('internal', `BullMQ refused a command: ${withoutQuotes(message)}`, 'please report it')
  }
  if (typeof code === 'string' && TLS.test(code)) {
    return fault('redis_misconfigured', `no encrypted connection to Redis: ${code}`, TLS_ADVICE)
  }
  if (typeof code === 'string' && (ERRNO.test(code) || SOCKET_CALLS.has(syscall))) {
    return away(`no connection to Redis (${/\w/.test(message) ? message : code})`)
  }
  return name === 'ClusterAllFailedError' ? away('no Redis node can be reached') : undefined
}

/** An unknown reply with whatever it quotes left out: that may be an argument. */
function withoutQuotes(message: string): string {
  return message.replace(/(['"`]).*\1/g, '…').slice(0, SHOWN)
}
