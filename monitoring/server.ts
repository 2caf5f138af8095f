/** Serves metrics and health: /metrics (Prometheus), /healthz (alive), /readyz (fit for work). */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
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

/**
 * By Node's own server: three fixed answers need no framework, whose loading a worker's start would wait for.
 *
 * @throws RankmillError `invalid_configuration` when the port is taken
 */
export async function serveMonitoring(
  sources: MonitoringSources,
  host: string,
  { port, orNext = false, flag = '--metrics-port' }: WantedPort,
): Promise<MonitoringServer> {
  const server = createServer(async ({ method, url = '' }, response) => {
    const isRead = method === 'GET' || method === 'HEAD'
    const { status, type, body } = await answerTo(isRead ? url.replace(/\?.*/s, '') : '', sources).catch(
      (error: unknown) => json(500, { error: RankmillError.from(error).message }),
    )
    response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body)
  })
  const last = orNext && port !== 0 ? Math.min(MAX_PORT, port + MAX_PORTS_TRIED) : port
  for (let tried = port; ; tried++) {
    try {
      await once(server.listen({ host, port: tried }), 'listening')
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE' && tried < last) continue
      const message = `${flag}: cannot listen on ${host}:${port}: ${(error as Error).message}`
      throw new RankmillError('invalid_configuration', message, { param: 'metricsPort' }, { cause: error })
    }
  }
  // A connection that cannot be accepted (too many open files) ends no worker.
  server.on('error', () => undefined)
  const shown = host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host
  return {
    url: `http://${shown}:${(server.address() as AddressInfo).port}`,
    close: async () => {
      const closed = once(server, 'close')
      server.close()
      // Those who scrape keep theirs open.
      server.closeAllConnections()
      await closed
    },
  }
}

interface Answer {
  readonly status: number
  readonly type: string
  readonly body: string
}

async function answerTo(path: string, { contentType, metrics, alive, ready }: MonitoringSources): Promise<Answer> {
  if (path === '/metrics') return { status: 200, type: contentType, body: await metrics() }
  if (path === '/healthz') return ofHealth(alive())
  if (path === '/readyz') return ofHealth(await ready())
  return json(404, { error: 'here are GET /metrics, /healthz and /readyz' })
}

function ofHealth(health: Health): Answer {
  return json(health.ok ? 200 : 503, health)
}

function json(status: number, body: object): Answer {
  return { status, type: 'application/json; charset=utf-8', body: JSON.stringify(body) }
}
