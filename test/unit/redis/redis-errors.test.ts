/** What each reply and each error of a connection means, also where it is wrapped. Real servers: redis-boundary.test.ts. */
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { type ErrorCode, RankmillError } from '../../../shared/errors.js'
import { reaching, withoutPassword } from '../../../shared/redis/connection.js'
import { redisError, redisFault } from '../../../shared/redis/redis-errors.js'
import { backoffMs, untilPasses } from '../../../shared/redis/until-passes.js'

const SECRET = 'CANARY-secret'

/** As ioredis makes it, with what was sent. */
function reply(message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError', command: { name: 'set', args: [SECRET] } })
}

const replies: [string, ErrorCode][] = [
  ["OOM command not allowed when used memory > 'maxmemory'.", 'redis_full'],
  ["OOM command not allowed when used memory > 'maxmemory'. script: 3fa9, on @user_script:3.", 'redis_full'],
  [
    "ERR Error running script (call to f_3fa9): @user_script:7: @user_script: 7: -OOM command not allowed when used memory > 'maxmemory'.",
    'redis_full',
  ],
  ["READONLY You can't write against a read only replica.", 'redis_read_only'],
  [
    "ERR Error running script (call to f_3fa9): @user_script:2: @user_script: 2: -READONLY You can't write against a read only replica.",
    'redis_read_only',
  ],
  [
    'MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.',
    'redis_read_only',
  ],
  ['NOREPLICAS Not enough good replicas to write.', 'redis_read_only'],
  ['LOADING Redis is loading the dataset in memory', 'redis_unavailable'],
  ["MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", 'redis_unavailable'],
  ['CLUSTERDOWN The cluster is down', 'redis_unavailable'],
  ['TRYAGAIN Multiple keys request during rehashing of slot', 'redis_unavailable'],
  ['BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.', 'redis_unavailable'],
  ['UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)', 'redis_unavailable'],
  ['NOSCRIPT No matching script. Please use EVAL.', 'redis_unavailable'],
  ['EXECABORT Transaction discarded because of previous errors.', 'redis_unavailable'],
  ['ERR max number of clients reached', 'redis_unavailable'],
  ['MOVED 3999 127.0.0.1:6381', 'redis_misconfigured'],
  ['ASK 3999 127.0.0.1:6381', 'redis_misconfigured'],
  ["CROSSSLOT Keys in request don't hash to the same slot", 'redis_misconfigured'],
  [`ERR unknown command 'lmpop', with args beginning with: '${SECRET}' `, 'redis_misconfigured'],
  ['ERR DB index is out of range', 'redis_misconfigured'],
  ['NOAUTH Authentication required.', 'redis_denied'],
  ['WRONGPASS invalid username-password pair or user is disabled.', 'redis_denied'],
  ['ERR invalid password', 'redis_denied'],
  ["NOPERM this user has no permissions to run the 'hset' command", 'redis_denied'],
  [
    "ERR The user executing the script can't run this command or subcommand script: 3fa9, on @user_script:1.",
    'redis_denied',
  ],
  ['DENIED Redis is running in protected mode because protected mode is enabled', 'redis_denied'],
  ['WRONGTYPE Operation against a key holding the wrong kind of value', 'internal'],
  [`ERR something new about "${SECRET}"`, 'internal'],
]

const failures: [string, Error, ErrorCode][] = [
  ['a timeout', new Error('Command timed out'), 'redis_unavailable'],
  ['no connection', new Error("Stream isn't writeable and enableOfflineQueue options is false"), 'redis_unavailable'],
  ['a closed one', new Error('Connection is closed.'), 'redis_unavailable'],
  [
    'too many tries',
    Object.assign(
      new Error(
        'Reached the max retries per request limit (which is 1). Refer to "maxRetriesPerRequest" option for details.',
      ),
      { name: 'MaxRetriesPerRequestError' },
    ),
    'redis_unavailable',
  ],
  [
    'an aborted command',
    Object.assign(reply('Command aborted due to connection close'), { name: 'AbortError' }),
    'redis_unavailable',
  ],
  ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EHOSTUNREACH', 'EAI_AGAIN'].map(
    (code): [string, Error, ErrorCode] => [
      code,
      Object.assign(new Error(`connect ${code}`), { code }),
      'redis_unavailable',
    ],
  ),
  [
    'a socket that is not there',
    Object.assign(new Error('connect ENOENT /x'), { code: 'ENOENT', syscall: 'connect' }),
    'redis_unavailable',
  ],
  [
    'an unknown authority',
    Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' }),
    'redis_misconfigured',
  ],
  [
    'no TLS there',
    Object.assign(new Error('wrong version number'), { code: 'ERR_SSL_WRONG_VERSION_NUMBER' }),
    'redis_misconfigured',
  ],
  [
    'a job whose lock is gone',
    Object.assign(new Error('Missing lock for job 7. moveToFinished'), { code: -2 }),
    'internal',
  ],
  [
    'a transaction, by what was refused in it',
    Object.assign(reply('EXECABORT Transaction discarded because of previous errors.'), {
      previousErrors: [reply("OOM command not allowed when used memory > 'maxmemory'.")],
    }),
    'redis_full',
  ],
  [
    'a cluster, by its last node',
    Object.assign(new Error('Failed to refresh slots cache.'), {
      name: 'ClusterAllFailedError',
      lastNodeError: reply('NOAUTH Authentication required.'),
    }),
    'redis_denied',
  ],
  [
    'several addresses, by the first',
    new AggregateError([Object.assign(new Error('connect ECONNREFUSED ::1:6379'), { code: 'ECONNREFUSED' })]),
    'redis_unavailable',
  ],
  [
    'one inside another',
    new Error('the job loop ended', { cause: reply('LOADING Redis is loading') }),
    'redis_unavailable',
  ],
]

describe('an error of Redis', () => {
  it.each(replies)('%s', (message, code) => check(reply(message), code))
  it.each(failures)('%s', (_name, cause, code) => check(cause, code))

  function check(cause: Error, code: ErrorCode) {
    const error = redisError(cause)
    expect(error).toMatchObject({ name: 'RankmillError', code })
    expect(error.message).toMatch(/[\w)]: \w/)
    expect(redisFault(cause)?.passes).toBe(['redis_unavailable', 'redis_full', 'redis_read_only'].includes(code))
    expect(inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true })).not.toContain(SECRET)
  }

  it('is told from any other, which passes through unchanged', async () => {
    const others = [
      new TypeError('a defect'),
      new RankmillError('conflict', 'x'),
      new DOMException('stopped', 'AbortError'),
      'text',
    ]
    for (const other of others) {
      expect(redisFault(other)).toBeUndefined()
      await expect(reaching(() => Promise.reject(other))).rejects.toBe(other)
      await expect(untilPasses(() => Promise.reject(other), { limitMs: 1000 })).rejects.toBe(other)
    }
    const unreadable = Object.assign(new Error('EACCES: permission denied'), { code: 'EACCES', syscall: 'open' })
    expect(redisFault(unreadable)).toBeUndefined()
  })

  it('is never logged with what was sent', () => {
    const script = `import { makeLogger } from ${JSON.stringify(resolve('dist/shared/logger.js'))}
      const refused = Object.assign(new Error('OOM'), { command: { args: ['${SECRET}'] } })
      makeLogger('info', 'x').warn({ err: refused }, 'one')
      makeLogger('info', 'x').warn({ err: Object.assign(new Error('EXECABORT'), { previousErrors: [refused] }) }, 'more')
      makeLogger('info', 'x').warn({ err: new AggregateError([refused]) }, 'several')`
    const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
    expect(stderr.trim().split('\n')).toHaveLength(3)
    expect(stderr).not.toContain(SECRET)
  })
})

describe('waiting', () => {
  it('calls again while the fault passes, and ends with what it is where it does not', async () => {
    const waits: number[] = []
    let calls = 0
    const call = async () => {
      if (++calls < 4) throw reply('LOADING Redis is loading')
      return calls
    }
    const options = { limitMs: 5000, random: () => 0, onWait: (_: unknown, ms: number) => waits.push(ms) }
    await expect(untilPasses(call, options)).resolves.toBe(4)
    expect(waits).toEqual([25, 50, 100])
    const full = () => Promise.reject(reply('OOM command not allowed'))
    await expect(untilPasses(full, { limitMs: 100 })).rejects.toMatchObject({ code: 'redis_full' })
    calls = 0
    const denied = () => Promise.reject(calls++ === 0 ? reply('NOAUTH Authentication required.') : new Error('again'))
    await expect(untilPasses(denied, options)).rejects.toMatchObject({ code: 'redis_denied' })
  })

  it('ends with the signal', async () => {
    const stop = new AbortController()
    const waiting = untilPasses(() => Promise.reject(reply('LOADING x')), {
      limitMs: 60_000,
      signal: stop.signal,
      onWait: () => stop.abort(new Error('enough')),
    })
    await expect(waiting).rejects.toThrow('enough')
  })

  it('is longer each time, up to two seconds, and never the same for all', () => {
    expect([1, 2, 7, 100].map((n) => backoffMs(n, () => 1))).toEqual([50, 100, 2000, 2000])
    expect(backoffMs(3, () => 0)).toBe(100)
  })
})

describe('a Redis URL', () => {
  it('is shown without its password', () => {
    for (const url of [
      `redis://:${SECRET}@host:1/2`,
      `rediss://user:${SECRET}@host`,
      `redis://host?password=${SECRET}`,
    ]) {
      expect(withoutPassword(url)).not.toContain(SECRET)
    }
    expect(withoutPassword('redis://user:x@host:6380/2')).toBe('redis://user:***@host:6380/2')
    const socket = 'redis://localhost/?path=/srv/.rankmill/redis/redis.sock'
    expect(withoutPassword(socket)).toBe(socket)
    expect(withoutPassword(`${socket}&password=${SECRET}`)).toBe('redis://localhost/?***')
  })

  it('is refused where a part of the password would be taken for something else, without showing it', () => {
    for (const password of ['12#CANARY', '12/CANARY', '%CANARY', 'a#CANARY']) {
      const refused = thrown(() => withoutPassword(`redis://user:${password}@host`))
      expect(refused).toMatchObject({ code: 'invalid_configuration', details: { param: 'redis' } })
      expect(inspect(refused, { depth: Number.POSITIVE_INFINITY, showHidden: true })).not.toContain('CANARY')
    }
  })
})

function thrown(call: () => unknown): unknown {
  try {
    return call()
  } catch (error) {
    return error
  }
}
