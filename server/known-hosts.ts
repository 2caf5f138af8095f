/**
 * Which names callers may use for a server that asks nobody for a key. A page on the internet can make a browser call a
 * loopback address, under a name of its own that resolves there (DNS rebinding): then `Host` tells. And it can have a browser
 * send what needs no permission, as uploads: then `Origin` tells.
 */
import { isIP } from 'node:net'
import { RankmillError } from '../shared/errors.js'
import type { Options } from '../shared/options.js'

const ANY = '*'

export class KnownHosts {
  /** Undefined where any name is good. */
  readonly #names: ReadonlySet<string> | undefined

  /** @param isOpen nobody is asked for a key */
  constructor({ host, hosts }: Pick<Options, 'host' | 'hosts'>, isOpen: boolean) {
    const given = hosts
      .split(',')
      .map((name) => name.trim().toLowerCase())
      .filter((name) => name !== '')
    const isChecked = given.length > 0 ? !given.includes(ANY) : isOpen && isLoopback(host)
    this.#names = isChecked ? new Set(['localhost', host.toLowerCase(), ...given]) : undefined
  }

  /** @throws RankmillError `forbidden` */
  check({ host, origin }: { host?: string | undefined; origin?: string | undefined }): void {
    if (!this.#names) return
    if (!this.#knows(host)) {
      const message = `Host: this server is not known as "${shown(host)}": name it with --hosts if it should be`
      throw new RankmillError('forbidden', message)
    }
    if (origin === undefined || origin === 'null' || !URL.canParse(origin) || !this.#knows(new URL(origin).host)) {
      if (origin !== undefined)
        throw new RankmillError('forbidden', `Origin: pages of "${shown(origin)}" may not call this server`)
    }
  }

  #knows(host: string | undefined): boolean {
    const name = (host ?? '').toLowerCase().replace(/:\d{1,5}$/, '')
    const address = name.replace(/^\[(.*)\]$/, '$1')
    // An address cannot be made to resolve to another one.
    return isIP(address) !== 0
      ? isLoopback(address) || this.#names?.has(address) === true
      : this.#names?.has(name) === true
  }
}

export function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true
  return isIP(host) === 4 && host.startsWith('127.')
}

function shown(text: string | undefined): string {
  return (text ?? '').slice(0, 100)
}
