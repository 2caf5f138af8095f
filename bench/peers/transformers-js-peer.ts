/** transformers.js as its documentation shows a cross-encoder: one tokenizer call and one model call a list, padded. */

import { basename, dirname } from 'node:path'
import { AutoModelForSequenceClassification, AutoTokenizer, env } from '@xenova/transformers'
import { answerLines, peerArguments } from './peer-lines.js'

const { folder, threads } = peerArguments()
env.allowRemoteModels = false
env.localModelPath = dirname(folder)
const name = basename(folder)
const tokenizer = await AutoTokenizer.from_pretrained(name)
const model = await AutoModelForSequenceClassification.from_pretrained(name, {
  dtype: 'fp32',
  session_options: { intraOpNumThreads: threads },
})
await answerLines(async (lists) => {
  const scores: number[] = []
  for (const { query, documents } of lists) {
    const queries = new Array<string>(documents.length).fill(query)
    const inputs = tokenizer(queries, { text_pair: [...documents], padding: true, truncation: true })
    const { logits } = await model(inputs)
    scores.push(...(logits.data as Float32Array))
  }
  return scores
})
