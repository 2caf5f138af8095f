import { describe, expect, it } from 'vitest'
import { parseRedisUrl } from '../../../shared/redis/redis-url.js'

describe('a Redis URL', () => {
  it('names one server', () => {
    const { kind, url, nodes, tls, shown } = parseRedisUrl('rediss://ada:s%40crt@[::1]:6380/2')
    expect({ kind, href: url.href, nodes, tls, shown }).toEqual({
      kind: 'server',
      href: 'rediss://ada:s%40crt@[::1]:6380/2',
      nodes: [{ host: '::1', port: 6380 }],
      tls: true,
      shown: 'rediss://ada:***@[::1]:6380/2',
    })
  })

  it('names the nodes of a cluster', () => {
    const { kind, url, nodes, tls, shown } = parseRedisUrl('redis+cluster://ada:secret@one:7001,[::1]:7002,three')
    expect({ kind, href: url.href, nodes, tls, shown }).toEqual({
      kind: 'cluster',
      href: 'redis://ada:secret@one:7001',
      nodes: [
        { host: 'one', port: 7001 },
        { host: '::1', port: 7002 },
        { host: 'three', port: 6379 },
      ],
      tls: false,
      shown: 'redis+cluster://ada:***@one:7001,[::1]:7002,three',
    })
  })

  it('names a primary by its sentinels', () => {
    const { kind, url, nodes, primary, tls, shown } = parseRedisUrl(
      'rediss+sentinel://:secret@one,two:26380/mymaster/3?sentinelPassword=secret',
    )
    expect({ kind, href: url.href, nodes, primary, tls, shown }).toEqual({
      kind: 'sentinel',
      href: 'rediss://:secret@one/3?sentinelPassword=secret',
      nodes: [
        { host: 'one', port: 26_379 },
        { host: 'two', port: 26_380 },
      ],
      primary: 'mymaster',
      tls: true,
      shown: 'rediss+sentinel://:***@one,two:26380/mymaster/3?***',
    })
  })

  it.each([
    ['http://one', /must begin with redis:\/\//],
    ['redis+other://one', /must be like redis\+cluster/],
    ['redis+cluster://one,,two', /node is missing/],
    ['redis+cluster://', /node is missing/],
    ['redis+cluster://one/1', /one database only/],
    ['redis+cluster://one:port', /must be a URL/],
    ['redis+cluster://ada:se/cret@one', /./],
    ['redis+cluster://ada:se#cret@one', /./],
    ['redis+sentinel://one:26379', /name that the sentinels know/],
    ['redis+sentinel://one:26379/', /name that the sentinels know/],
    ['redis+sentinel://one/mymaster/x', /name that the sentinels know/],
  ])('%s is refused, and shows no password', (text, says) => {
    const error = thrown(() => parseRedisUrl(text))
    expect(error).toMatchObject({ code: 'invalid_configuration', message: expect.stringMatching(says) })
    expect(String(error)).not.toMatch(/cret/)
  })
})

function thrown(call: () => unknown): unknown {
  try {
    call()
  } catch (error) {
    return error
  }
  return undefined
}
