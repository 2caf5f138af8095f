/**
 * Connects to the primary that sentinels name. Sentinels that cannot be reached are asked again as a server is connected to
 * again, with the connection's own back-off; ioredis' connector would end the connection for good.
 */
import { Socket } from 'node:net'
import { type SentinelConnectionOptions, SentinelConnector } from 'ioredis'

export class PrimaryConnector extends SentinelConnector {
  constructor(options: unknown) {
    super({ ...(options as SentinelConnectionOptions), sentinelRetryStrategy: () => null })
  }

  override async connect(emit: Parameters<SentinelConnector['connect']>[0]): ReturnType<SentinelConnector['connect']> {
    try {
      return await super.connect(emit)
    } catch (error) {
      this.firstError = error as Error
      return new Socket().destroy()
    }
  }
}
