/** Rerank clients as they come from npm, unmodified, with nothing but a base URL. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CohereRerank } from '@langchain/cohere'
import { Document } from '@langchain/core/documents'
import { CohereRerank as LlamaCohereRerank } from '@llamaindex/cohere'
import { TextNode } from '@llamaindex/core/schema'
import { CohereClient, CohereClientV2, CohereError } from 'cohere-ai'
import { VoyageAIClient } from 'voyageai'

const url = process.env.RANKMILL_TEST_SERVER
const model = process.env.RANKMILL_TEST_MODEL
const token = process.env.RANKMILL_TEST_KEY ?? 'none'
const query = 'What is the capital of the United States?'
const documents = [
  'Carson City is the capital city of the American state of Nevada.',
  'Apples and pears are fruit.',
  'Washington, D.C. is the capital of the United States.',
]

function isRanked(rows, score = (row) => row.relevanceScore) {
  const scores = rows.map(score)
  assert.equal(rows[0].index, 2)
  assert.deepEqual(
    scores,
    [...scores].sort((a, b) => b - a),
  )
  for (const each of scores) assert.ok(each >= 0 && each <= 1)
}

test('cohere-ai, CohereClient (v1)', async () => {
  const client = new CohereClient({ token, environment: url })
  const { results, id, meta } = await client.rerank({ model, query, documents, topN: 2 })
  assert.equal(results.length, 2)
  assert.ok(id && meta.billedUnits.searchUnits === 1)
  isRanked(results)
  const named = await client.rerank({
    model,
    query,
    documents: documents.map((text) => ({ text })),
    returnDocuments: true,
  })
  for (const { index, document } of named.results) assert.equal(document.text, documents[index])
})

test('cohere-ai, CohereClientV2', async () => {
  const client = new CohereClientV2({ token, environment: url })
  const { results } = await client.rerank({ model, query, documents, topN: 3, maxTokensPerDoc: 4096 })
  assert.equal(results.length, 3)
  isRanked(results)
})

test('cohere-ai reads the message of an error', async () => {
  const client = new CohereClientV2({ token, environment: url })
  await assert.rejects(client.rerank({ model, query, documents: [] }, { maxRetries: 0 }), (error) => {
    assert.ok(error instanceof CohereError)
    assert.equal(error.statusCode, 400)
    assert.match(error.body.message, /documents/)
    return true
  })
})

test('voyageai', async () => {
  const client = new VoyageAIClient({ apiKey: token, environment: `${url}/v1` })
  const plain = await client.rerank({ model, query, documents })
  assert.equal(plain.data.length, 3)
  isRanked(plain.data)
  const { data, usage } = await client.rerank({
    model,
    query,
    documents,
    topK: 2,
    returnDocuments: true,
    truncation: true,
  })
  assert.equal(data.length, 2)
  assert.ok(usage.totalTokens >= 0)
  for (const { index, document } of data) assert.equal(document, documents[index])
})

test('@langchain/cohere, CohereRerank', async () => {
  const client = new CohereClient({ token, environment: url })
  const reranker = new CohereRerank({ client, model, topN: 2 })
  const found = await reranker.compressDocuments(
    documents.map((pageContent) => new Document({ pageContent })),
    query,
  )
  assert.equal(found.length, 2)
  assert.equal(found[0].pageContent, documents[2])
  assert.ok(found[0].metadata.relevanceScore > found[1].metadata.relevanceScore)
  isRanked(await reranker.rerank(documents, query))
})

test('@llamaindex/cohere, CohereRerank', async () => {
  const reranker = new LlamaCohereRerank({ apiKey: token, baseUrl: url, model, topN: 2 })
  const nodes = documents.map((text) => ({ node: new TextNode({ text }) }))
  const found = await reranker.postprocessNodes(nodes, query)
  assert.equal(found.length, 2)
  assert.equal(found[0].node.text, documents[2])
  assert.ok(found[0].score > found[1].score)
})
