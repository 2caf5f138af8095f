/** A producer in a process of its own, whose clock may be off: reranks what it is given and sends what came of it. */
import { RerankClient } from '../../producer/client.js'

const client = new RerankClient()
const outcome = await client.rerank(JSON.parse(process.argv[2] ?? '{}')).then(
  (result) => ({ results: result.results.length }),
  (error: { code: string }) => ({ code: error.code }),
)
process.send?.({ ...outcome, clock: Date.now() })
await client.close()
process.disconnect?.()
