/** Whether a key is asked for, and whose request it is. */
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { isLoopback } from '../known-hosts.js'
import type { ApiKeys } from './api-keys.js'
import { Caller } from './caller.js'

export class Authentication {
  readonly #keys: ApiKeys
  /** Everybody may call. */
  readonly isOpen: boolean

  /** @throws RankmillError `invalid_configuration` where an address beyond this machine would be open, or shut to everybody */
  static async open(keys: ApiKeys, { auth, host }: Pick<Options, 'auth' | 'host'>): Promise<Authentication> {
    const isOpen = auth === 'open' || (auth === 'auto' && isLoopback(host))
    if (auth === 'auto' && !isOpen && (await keys.count()) === 0) {
      const message = `--host ${host}: others can reach this address, and there is no API key: make one with \`rankmill keys create\`, or say --auth open`
      throw new RankmillError('invalid_configuration', message, { param: 'auth' })
    }
    return new Authentication(keys, isOpen)
  }

  private constructor(keys: ApiKeys, isOpen: boolean) {
    this.#keys = keys
    this.isOpen = isOpen
  }

  /** @throws RankmillError `unauthorized` */
  async callerOf(authorization: string | undefined): Promise<Caller> {
    // Clients send a key of some kind even where none is asked for.
    if (this.isOpen) return new Caller()
    const [, key] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? []
    if (key === undefined) throw new RankmillError('unauthorized', 'the request has no `Authorization: Bearer KEY`')
    return new Caller(await this.#keys.check(key))
  }
}
