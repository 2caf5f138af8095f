/** Serves metrics and health: /metrics (Prometheus), /healthz (alive), /readyz (fit for work). */
import type { FastifyInstance } from 'fastify'
import { RankmillError } from '../shared/errors.js'

export interface Health {
  readonly ok: boolean
  /** What was looked at, and how it stood: shown as it is. */
  readonly checks: Readonly<Record<string, string>>
}

export interface MonitoringSources {
  readonly contentType: string
  metrics(): Promise<string>
  /** Liveness means progress: a process that holds work and finishes none is not alive. */
  alive(): Health
  ready(): Health | Promise<Health>
}

export interface MonitoringServer {
  /** http://host:port */
  readonly url: string
  close(): Promise<void>
}

export interface WantedPort {
  /** 0: any that is free. */
  readonly port: number
  /** Where it is taken, the next one that is free is as good; for ports that nobody named. */
  readonly orNext?: boolean
  /** The flag that names it. */
  readonly flag?: string
}

const MAX_PORT = 65_535
/** Processes of one machine that find a port each. */
const MAX_PORTS_TRIED = 256

/** @throws RankmillError `invalid_configuration` when the port is taken */
export async function serveMonitoring(
  sources: MonitoringSources,
  host: string,
  { port, orNext = false, flag = '--metrics-port' }: WantedPort,
): Promise<MonitoringServer> {
  // Loaded only here: most commands serve nothing.
  const { fastify } = await import('fastify')
  const server: FastifyInstance = fastify({ logger: false, forceCloseConnections: true })
  server.get('/metrics', async (_request, reply) => reply.type(sources.contentType).send(await sources.metrics()))
  server.get('/healthz', async (_request, reply) => {
    const health = sources.alive()
    return reply.code(health.ok ? 200 : 503).send(health)
  })
  server.get('/readyz', async (_request, reply) => {
    const health = await sources.ready()
    return reply.code(health.ok ? 200 : 503).send(health)
  })
  const last = orNext && port !== 0 ? Math.min(MAX_PORT, port + MAX_PORTS_TRIED) : port
  for (let tried = port; ; tried++) {
    try {
      await server.listen({ host, port: tried })
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE' && tried < last) continue
      const message = `${flag}: cannot listen on ${host}:${port}: ${(error as Error).message}`
      throw new RankmillError('invalid_configuration', message, { param: 'metricsPort' }, { cause: error })
    }
  }
  const [address] = server.addresses()
  const shown = host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host
  return { url: `http://${shown}:${typeof address === 'object' ? address.port : port}`, close: () => server.close() }
}
