/** A producer that dies between its note and its first job: says so, and waits to be killed. */
import { Queue } from 'bullmq'
import { RerankClient } from '../../producer/client.js'

const [how = 'submit', text = '{}'] = process.argv.slice(2)
Queue.prototype.addBulk = () => {
  process.send?.('noted')
  return new Promise(() => undefined)
}
const client = new RerankClient({ unservedMs: 1000 })
await (how === 'submit' ? client.submit(JSON.parse(text)) : client.rerank(JSON.parse(text)))
