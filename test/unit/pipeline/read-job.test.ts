/** Jobs of every release, as its producer put them into the queue (test/golden/jobs). */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { RerankJob } from '../../../shared/protocol/job.js'
import { NewerJob, readJob } from '../../../worker/pipeline/read-job.js'

const FOLDER = 'test/golden/jobs'
interface Golden {
  readonly release: string
  readonly requests: readonly { readonly kind: string; readonly jobs: readonly RerankJob[] }[]
}
const releases = readdirSync(FOLDER).map((name) => JSON.parse(readFileSync(`${FOLDER}/${name}`, 'utf8')) as Golden)
const jobs = releases.flatMap(({ release, requests }) =>
  requests.flatMap((request) => request.jobs.map((job) => ({ release, kind: request.kind, job }))),
)
const [{ job: plain }] = jobs as [(typeof jobs)[number]]

describe('a job', () => {
  it.each(jobs)('of $release is understood: $kind', ({ job }) => expect(readJob(job)).toMatchObject(job))

  it('without what came later has what was meant then', () => {
    const { requestId, query, documents, submittedAt } = plain
    expect(readJob({ requestId, query, documents, submittedAt })).toMatchObject({
      ...{ requestId, query, documents, part: 0, parts: 1, topN: null, longDocuments: 'truncate', exit: 'never' },
      ...{ prefilter: null, cascade: [], fuse: null, dtype: 'auto', deadlineAt: null },
    })
    expect(readJob({ ...plain, documents: { corpus: 'c', ids: ['a'] } })).toMatchObject({
      documents: { version: null, missing: 'error', scores: null },
    })
  })

  it.each([
    ['a version', { v: 99 }],
    ['a way to read long documents', { longDocuments: 'summary' }],
    ['a number format', { dtype: 'int2' }],
    ['an exit', { exit: { budget: 3 } }],
    ['a way to fuse', { fuse: { by: 'vote', weight: 1, of: null } }],
    ['what a cascade keeps', { cascade: [{ model: 'small', keep: { least: 3 } }] }],
    ['another kind of documents', { documents: { url: 'https://example.org' } }],
  ])('of a newer release is told from a broken one: %s', (_, change) => {
    expect(() => readJob({ ...plain, ...change })).toThrow(NewerJob)
  })

  it.each([
    ['query', { query: undefined }],
    ['submittedAt', { submittedAt: 'yesterday' }],
  ])('that is none is refused by its field: %s', (param, change) => {
    expect(() => readJob({ ...plain, ...change })).toThrow(
      expect.objectContaining({ code: 'invalid_request', details: { param } }),
    )
  })
})
