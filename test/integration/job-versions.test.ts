/** Jobs of other releases in the queue of a real worker. */
import { readFileSync } from 'node:fs'
import { Queue } from 'bullmq'
import { describe, expect, it } from 'vitest'
import { CorpusWriter } from '../../producer/corpora/corpus-writer.js'
import type { Answer, RerankJob } from '../../shared/protocol/job.js'
import { keysOf } from '../../shared/protocol/keys.js'
import { laneOf, oldQueueName } from '../../shared/protocol/lanes.js'
import { TINY_MODEL, until, useStage } from './stage.js'

const stage = useStage()
const golden = JSON.parse(readFileSync('test/golden/jobs/v1.json', 'utf8')) as {
  requests: { kind: string; jobs: RerankJob[] }[]
}
/** Those that a tiny model without exits, a year later, cannot serve. */
const ERRORS: Readonly<Record<string, string>> = {
  'bulk with a deadline': 'deadline_exceeded',
  'exit after a layer': 'invalid_request',
  'exit by confidence': 'invalid_request',
  'corpus in a folder': 'unknown_corpus',
}

function queueOf(job: RerankJob): Queue<RerankJob> {
  const queue = new Queue<RerankJob>(oldQueueName('rerank', laneOf(job.priority)), {
    connection: stage().redis,
    prefix: stage().prefix,
  })
  stage().onEnd(() => queue.close())
  return queue
}

const answerOf = async (id: string): Promise<Answer | undefined> => {
  const text = await stage().redis.get(keysOf(stage().prefix, 'rerank').result(id))
  return text === null ? undefined : JSON.parse(text)
}

describe('a worker', () => {
  it('answers the jobs of 0.1.0', async () => {
    const keys = keysOf(stage().prefix, 'rerank')
    await new CorpusWriter(stage().redis, keys).put('docs', [
      { id: 'a', text: 'a job and its worker' },
      { id: 'b', text: 'a cat' },
    ])
    const text = JSON.stringify(golden.requests).replaceAll('"one-logit"', JSON.stringify(TINY_MODEL))
    const requests = JSON.parse(text) as typeof golden.requests
    for (const { jobs } of requests)
      for (const job of jobs) await queueOf(job).add('rerank', job, { jobId: `${job.requestId}-${job.part}` })
    await stage().worker()
    for (const { kind, jobs } of requests) {
      const id = jobs[0]!.requestId
      await until(`an answer to ${kind}`, async () => (await answerOf(id)) !== undefined)
      const answer = (await answerOf(id)) as { result?: { results: object[] }; error?: { code: string } }
      expect([kind, answer.error?.code]).toEqual([kind, ERRORS[kind]])
      if (!answer.error) expect(answer.result!.results.length).toBeGreaterThan(0)
    }
  })

  it('hands back what only a newer release understands, and spends no try on it', async () => {
    const [job] = golden.requests[0]!.jobs
    const queue = queueOf(job!)
    await queue.waitUntilReady()
    const worker = await stage().worker()
    const newer = await queue.add(
      'rerank',
      { ...job!, v: 99 as 1, requestId: 'newer' },
      { jobId: 'newer-0', attempts: 2 },
    )
    await until('the job to go back', () => newer.isDelayed())
    await until(
      'the job to go back again',
      async () => (await newer.isDelayed()) && (await queue.getJob('newer-0'))!.attemptsStarted > 1,
    )
    const again = await queue.getJob('newer-0')
    expect(again!.attemptsMade).toBe(0)
    expect(await answerOf('newer')).toBeUndefined()
    expect(worker.metricsUrl).not.toBe('')
    await again!.updateData({ ...job!, requestId: 'newer' })
    await until('an answer', async () => (await answerOf('newer')) !== undefined)
  })
})
