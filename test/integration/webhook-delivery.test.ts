/** Where webhooks are sent: the very address that was looked at, whatever a name resolves to the next time. */
import { createServer } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { Delivery } from '../../server/webhooks/delivery.js'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

/** Answers on every address of this machine, and notes on which it was reached. */
async function receiver(): Promise<{ port: number; reached: (string | undefined)[] }> {
  const reached: (string | undefined)[] = []
  const server = createServer((request, response) => {
    reached.push(request.socket.localAddress)
    response.writeHead(204).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve))
  closers.push(() => new Promise((resolve) => server.close(resolve)))
  return { port: (server.address() as AddressInfo).port, reached }
}

/** A name that resolves to other addresses each time. */
function rebinding(...answers: string[][]) {
  let lookups = 0
  const lookup: LookupFunction = (_name, options, tell) => {
    const addresses = answers[Math.min(lookups++, answers.length - 1)] ?? []
    if (options.all)
      tell(
        null,
        addresses.map((address) => ({ address, family: 4 })),
      )
    else tell(null, addresses[0] ?? '', 4)
  }
  return { lookup, lookups: () => lookups }
}

function delivery(lookup: LookupFunction): Delivery {
  // One address of this machine stands for the public ones: no other can be reached from everywhere.
  const made = new Delivery({ allow: '127.0.0.2', timeoutMs: 20_000, lookup })
  closers.push(() => made.close())
  return made
}

it('connects to the address that it checked, and looks a name up once a connection', async () => {
  const { port, reached } = await receiver()
  const { lookup, lookups } = rebinding(['127.0.0.2'], ['127.0.0.1'])
  const sender = delivery(lookup)
  expect(await sender.post(`http://rebinding.example:${port}/`, '{}', {})).toBe(204)
  expect([reached, lookups()]).toEqual([['127.0.0.2'], 1])
  // The next one is checked again: what was good before is not believed.
  await expect(sender.post(`http://rebinding.example:${port}/`, '{}', {})).rejects.toThrow('127.0.0.1')
  expect([reached, lookups()]).toEqual([['127.0.0.2'], 2])
})

it.each([
  ['a private one behind a good one', ['127.0.0.2', '10.0.0.1']],
  ['a private one before a good one', ['10.0.0.1', '127.0.0.2']],
  ['the metadata service', ['169.254.169.254']],
  ['every address of this machine', ['0.0.0.0']],
])('refuses a name whose addresses hold %s', async (_what, addresses) => {
  const { port, reached } = await receiver()
  const sender = delivery(rebinding(addresses).lookup)
  await expect(sender.post(`http://rebinding.example:${port}/`, '{}', {})).rejects.toThrow('not allowed')
  await expect(sender.post(`https://rebinding.example:${port}/`, '{}', {})).rejects.toThrow('not allowed')
  expect(reached).toEqual([])
})
