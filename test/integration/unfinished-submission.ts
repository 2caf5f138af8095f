/** A producer that dies between its note and its first job: says so, and waits to be killed. */
import { Queue } from 'bullmq'
import { RerankClient } from '../../producer/client.js'

const [how = 'submit', text = '{}'] = process.argv.slice(2)
const neverAdds = () => {
  process.send?.('noted')
  return new Promise<never>(() => undefined)
}
Queue.prototype.add = neverAdds
Queue.prototype.addBulk = neverAdds
const client = new RerankClient({ unservedMs: 1000 })
await (how === 'submit' ? client.submit(JSON.parse(text)) : client.rerank(JSON.parse(text)))
