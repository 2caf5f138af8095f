import { describe, expect, it } from 'vitest'
import { partOf, partsOf } from '../../../producer/split.js'
import { parseRequest, type RerankRequest, requestSchema } from '../../../shared/protocol/request.js'

const schema = requestSchema({
  maxDocuments: 100_000,
  maxDocumentBytes: 1000,
  maxQueryBytes: 1000,
  maxPrefilterDocuments: 9999,
  maxRequestBytes: 10_000_000,
})
/** All jobs of a request, as they are queued. */
function cut(request: RerankRequest, maxJobPairs: number) {
  const parts = partsOf(request, maxJobPairs)
  const times = { submittedAt: 1000, deadlineAt: 1050 }
  const opened = { generation: 7, pool: 'rankmill-small@fp32', lane: 'interactive', parts, ...times } as const
  return Array.from({ length: parts }, (_, part) => partOf(request, opened, part))
}

const request = (documents: unknown) => parseRequest({ query: 'q', documents, deadlineMs: 50 }, schema, () => 'id')

describe('a request', () => {
  it.each([1, 255, 256, 257, 10_000])('puts each of %i candidates into exactly one part', (count) => {
    const texts = Array.from({ length: count }, (_, i) => `text ${i}`)
    const jobs = cut(request(texts), 256)
    expect(jobs).toHaveLength(Math.ceil(count / 256))
    const seen = jobs.flatMap((job) =>
      (job.documents as { text: string }[]).map(({ text }, i) => [job.offset + i, text]),
    )
    expect(seen).toEqual(texts.map((text, i) => [i, text]))
    const sizes = jobs.map((job) => (job.documents as unknown[]).length)
    expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1)
  })

  it('splits references too, and gives every part the deadline', () => {
    const ids = Array.from({ length: 10 }, (_, i) => `d${i}`)
    const jobs = cut(request({ corpus: 'c', version: '7', ids, missing: 'skip' }), 4)
    expect(jobs.map((job) => job.documents)).toEqual([
      { corpus: 'c', version: '7', ids: ids.slice(0, 3), missing: 'skip', scores: null },
      { corpus: 'c', version: '7', ids: ids.slice(3, 6), missing: 'skip', scores: null },
      { corpus: 'c', version: '7', ids: ids.slice(6), missing: 'skip', scores: null },
    ])
    for (const job of jobs) {
      expect(job).toMatchObject({
        parts: 3,
        generation: 7,
        model: 'rankmill-small',
        submittedAt: 1000,
        deadlineAt: 1050,
      })
    }
  })
})
