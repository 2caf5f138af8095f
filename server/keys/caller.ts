/** Who asks: an API key, or anybody where the server is open. Names of one caller are hidden from every other. */
import { RankmillError } from '../../shared/errors.js'
import type { ApiKey, Scope } from './api-keys.js'

const MAX_ID_CHARACTERS = 200
const MAX_CORPUS_CHARACTERS = 100

export class Caller {
  /** The API key's id; 'open' for everybody on an open server. */
  readonly owner: string
  readonly key: ApiKey | undefined

  constructor(key?: ApiKey) {
    this.owner = key?.id ?? 'open'
    this.key = key
  }

  /** @throws RankmillError `forbidden` */
  mustHave(scope: Scope): void {
    if (!this.key || this.key.scopes.includes(scope) || (scope !== 'admin' && this.key.scopes.includes('admin'))) return
    throw new RankmillError('forbidden', `the API key has no scope "${scope}"`)
  }

  /** The name that a request of this caller has in the queue. @throws RankmillError `invalid_request` */
  ownId(id: string): string {
    if (id.length > MAX_ID_CHARACTERS) {
      throw new RankmillError(
        'invalid_request',
        `id: must have at most ${MAX_ID_CHARACTERS} characters, got ${id.length}`,
        { param: 'id' },
      )
    }
    return this.key ? `${this.owner}:${id}` : id
  }

  /** What the caller calls the request that has this name in the queue. */
  publicId(own: string): string {
    return this.key && own.startsWith(`${this.owner}:`) ? own.slice(this.owner.length + 1) : own
  }

  /** The name that a corpus of this caller has in Redis. @throws RankmillError `invalid_request`, `forbidden` */
  ownCorpus(name: string): string {
    if (!this.key) return name
    if (name.startsWith('file:')) {
      this.mustHave('admin')
      return name
    }
    if (name.length > MAX_CORPUS_CHARACTERS) {
      const message = `corpus: must have at most ${MAX_CORPUS_CHARACTERS} characters, got ${name.length}`
      throw new RankmillError('invalid_request', message, { param: 'documents.corpus' })
    }
    return `${this.owner}.${name}`
  }

  /** The caller's name for a corpus; undefined where it is another's. */
  publicCorpus(own: string): string | undefined {
    if (!this.key) return own
    return own.startsWith(`${this.owner}.`) ? own.slice(this.owner.length + 1) : undefined
  }

  /** An error whose message names things as the caller does. */
  withPublicNames(error: RankmillError): RankmillError {
    if (!this.key || !error.message.includes(this.owner)) return error
    const message = error.message.replaceAll(`${this.owner}:`, '').replaceAll(`${this.owner}.`, '')
    return new RankmillError(error.code, message, error.details, { cause: error.cause })
  }
}
