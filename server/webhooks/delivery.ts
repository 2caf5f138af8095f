/**
 * One POST to an address that a caller chose: never to one inside the network, whatever its name resolves to at the moment
 * of connecting, and never on to where a redirect points.
 */
import { type ClientRequest, request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { RequestFilteringHttpAgent, RequestFilteringHttpsAgent } from 'request-filtering-agent'
import { RankmillError } from '../../shared/errors.js'

const TIMEOUT_MS = 15_000
const MAX_URL_CHARACTERS = 2048

export class Delivery {
  readonly #allowed: readonly string[]
  readonly #http: RequestFilteringHttpAgent
  readonly #https: RequestFilteringHttpsAgent

  /** @param allow private networks that may be reached, as 10.1.0.0/16 divided by commas */
  constructor(allow: string) {
    this.#allowed = allow
      .split(',')
      .map((network) => network.trim())
      .filter((network) => network !== '')
    for (const network of this.#allowed) checkNetwork(network)
    const options = { keepAlive: false, allowIPAddressList: [...this.#allowed] }
    this.#http = new RequestFilteringHttpAgent(options)
    this.#https = new RequestFilteringHttpsAgent(options)
  }

  /** What can be told of an address before its name is resolved. @throws RankmillError `invalid_request` */
  check(url: string): void {
    const refuse = (reason: string) => new RankmillError('invalid_request', `webhook: ${reason}`, { param: 'webhook' })
    if (url.length > MAX_URL_CHARACTERS) throw refuse(`must have at most ${MAX_URL_CHARACTERS} characters`)
    const parsed = URL.canParse(url) ? new URL(url) : undefined
    if (!parsed || !['http:', 'https:'].includes(parsed.protocol)) throw refuse('must be an http or https URL')
    if (parsed.username !== '' || parsed.password !== '') throw refuse('must hold no user and no password')
    const host = parsed.hostname.replace(/^\[|\]$/g, '')
    if (isIP(host) !== 0 && !this.#mayReach(host)) throw refuse(`${host} is not a public address`)
  }

  /** @returns the status of the answer @throws Error where there is none */
  post(url: string, body: string, headers: Record<string, string>): Promise<number> {
    this.check(url)
    const isTls = url.startsWith('https:')
    return new Promise((resolve, reject) => {
      const options = {
        method: 'POST',
        agent: isTls ? this.#https : this.#http,
        headers: { ...headers, 'user-agent': 'rankmill-webhooks', 'content-length': Buffer.byteLength(body) },
        signal: AbortSignal.timeout(TIMEOUT_MS),
      }
      const request: ClientRequest = (isTls ? httpsRequest : httpRequest)(url, options, (response) => {
        // Only the status counts: what else is sent is not read.
        resolve(response.statusCode ?? 0)
        response.destroy()
      })
      request.on('error', reject)
      request.end(body)
    })
  }

  close(): void {
    this.#http.destroy()
    this.#https.destroy()
  }

  #mayReach(host: string): boolean {
    const address = ipaddr.process(host)
    if (address.range() === 'unicast') return true
    return this.#allowed.some((network) => {
      const [range, bits] = ipaddr.parseCIDR(
        network.includes('/') ? network : `${network}/${isIP(network) === 4 ? 32 : 128}`,
      )
      return range.kind() === address.kind() && address.match(range, bits)
    })
  }
}

/** @throws RankmillError `invalid_configuration` */
function checkNetwork(network: string): void {
  if (isIP(network) !== 0 || ipaddr.isValidCIDR(network)) return
  const message = `--webhook-allow: must be addresses or networks divided by commas, got "${network}"`
  throw new RankmillError('invalid_configuration', message, { param: 'webhookAllow' })
}
