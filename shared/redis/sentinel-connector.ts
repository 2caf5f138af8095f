/**
 * Connects to the primary that sentinels name. Sentinels that cannot be reached are asked again as a server is connected to
 * again, with the connection's own back-off; ioredis' connector would end the connection for good.
 */
import { Socket } from 'node:net'
import { type SentinelConnectionOptions, SentinelConnector } from 'ioredis'
import { RankmillError } from '../errors.js'

type Emit = Parameters<SentinelConnector['connect']>[0]

const REFUSED = /because ((NOAUTH|WRONGPASS|NOPERM|DENIED) .*)$/
/** Of a sentinel that answers, and has no address for the name. */
const UNKNOWN = /No such master with that name|got an invalid reply/

export class PrimaryConnector extends SentinelConnector {
  constructor(options: unknown) {
    super({ ...(options as SentinelConnectionOptions), sentinelRetryStrategy: () => null })
  }

  override async connect(emit: Emit): ReturnType<SentinelConnector['connect']> {
    const said: string[] = []
    try {
      return await super.connect((type, error) => {
        said.push(error.message)
        emit(type, error)
      })
    } catch (error) {
      this.firstError = this.#reason(said) ?? (error as Error)
      return new Socket().destroy()
    }
  }

  #reason(said: readonly string[]): Error | undefined {
    const refusal = said.map((message) => REFUSED.exec(message)?.[1]).find((text) => text !== undefined)
    if (refusal !== undefined) return new Error(refusal)
    if (!said.some((message) => UNKNOWN.test(message))) return undefined
    const message = `--redis: no sentinel knows a primary "${this.options.name}": correct the name after the sentinels`
    return new RankmillError('redis_misconfigured', message, { param: 'redis' })
  }
}
