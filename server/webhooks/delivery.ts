/**
 * One POST to an address that a caller chose: never to one inside the network, whatever its name resolves to at the moment
 * of connecting, and never on to where a redirect points.
 */
import { type ClientRequest, request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { RequestFilteringHttpAgent, RequestFilteringHttpsAgent } from 'request-filtering-agent'
import { RankmillError } from '../../shared/errors.js'

const MAX_URL_CHARACTERS = 2048

export interface DeliveryOptions {
  /** Private networks that may be reached, as 10.1.0.0/16 divided by commas. */
  readonly allow: string
  /** A receiver that takes longer to answer has not taken it. */
  readonly timeoutMs: number
  /** Of names; absent: the system's. */
  readonly lookup?: LookupFunction | undefined
}

export class Delivery {
  readonly #timeoutMs: number
  readonly #allowed: readonly string[]
  readonly #http: RequestFilteringHttpAgent
  readonly #https: RequestFilteringHttpsAgent

  /** @throws RankmillError `invalid_configuration` */
  constructor({ allow, timeoutMs, lookup }: DeliveryOptions) {
    this.#timeoutMs = timeoutMs
    this.#allowed = allow
      .split(',')
      .map((network) => network.trim())
      .filter((network) => network !== '')
    for (const network of this.#allowed) checkNetwork(network)
    // The agents check each address where the connection looks it up, and give it on: it is not looked up again.
    const options = { keepAlive: false, allowIPAddressList: [...this.#allowed], ...(lookup ? { lookup } : {}) }
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
    const signal = AbortSignal.timeout(this.#timeoutMs)
    return new Promise((resolve, reject) => {
      const options = {
        method: 'POST',
        agent: isTls ? this.#https : this.#http,
        headers: { ...headers, 'user-agent': 'rankmill-webhooks', 'content-length': Buffer.byteLength(body) },
        signal,
      }
      const request: ClientRequest = (isTls ? httpsRequest : httpRequest)(url, options, (response) => {
        // Only the status counts: what else is sent is not read.
        resolve(response.statusCode ?? 0)
        response.destroy()
      })
      request.on('error', (error) =>
        reject(signal.aborted ? new Error(`the receiver did not answer within ${this.#timeoutMs} ms`) : error),
      )
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
