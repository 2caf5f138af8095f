/** Threads that work on texts: real ones, with real tokenisers. */
import { afterEach, describe, expect, it } from 'vitest'
import { LocalTexts } from '../../../worker/text/local-texts.js'
import { tasksOf } from '../../../worker/text/text-tasks.js'
import { TextThreads } from '../../../worker/text/text-threads.js'
import { loadTokenizer } from '../../../worker/tokenize/tokenizer.js'

const never = new AbortController().signal
const ordinary = { priority: 0, deadlineAt: null }
const encoder = {
  folder: 'test/golden/tokenize/bpe',
  maxTokens: 64,
  truncation: 'longest_first',
  cacheTokens: 10_000,
} as const
const windows = { maxWindows: 4, overlap: 0.25 }
const open: TextThreads[] = []

function threads(settings: { threads?: number; taskTimeoutMs?: number; now?: () => number } = {}): TextThreads {
  const texts = new TextThreads({ threads: 1, maxAgeMs: 10_000, taskTimeoutMs: 60_000, now: Date.now, ...settings })
  open.push(texts)
  return texts
}

afterEach(async () => {
  await Promise.all(open.splice(0).map((texts) => texts.close()))
})

describe('text threads', () => {
  it.each(['truncate', 'windows', 'snippet'] as const)('give what the same work gives here: %s', async (mode) => {
    const here = new LocalTexts(loadTokenizer)
    const there = threads({ threads: 2 })
    const passages = ['A short one. About a job.', '', `${'Sentences about queues. '.repeat(80)}And a job. `]
    const task = { kind: 'pairs', encoder, query: 'the job', passages, mode, limit: null, windows } as const
    const [mine, theirs] = await Promise.all([here.run(task, ordinary, never), there.run(task, ordinary, never)])
    expect(theirs).toEqual(mine)
    expect(theirs.counts.length).toBe(3)
  })

  it('serve the most urgent first', async () => {
    const texts = threads()
    await texts.run({ kind: 'open', encoder }, ordinary, never)
    const order: string[] = []
    const add = (name: string, priority: number) =>
      texts.run({ kind: 'split', text: name }, { priority, deadlineAt: null }, never).then(() => order.push(name))
    await Promise.all([add('one', 9), add('two', 9), add('late', 9), add('later', 9), add('urgent', 0)])
    expect(order).toEqual(['one', 'two', 'urgent', 'late', 'later'])
  })

  it('end with an error what cannot be done, and go on', async () => {
    const texts = threads()
    const missing = { ...encoder, folder: '/nonexistent' }
    await expect(texts.run({ kind: 'open', encoder: missing }, ordinary, never)).rejects.toMatchObject({
      code: 'invalid_model',
    })
    const none = { ...encoder, maxTokens: 1 }
    await expect(texts.run({ kind: 'open', encoder: none }, ordinary, never)).rejects.toMatchObject({
      code: 'invalid_configuration',
      details: { param: 'maxTokens' },
    })
    expect(await texts.run({ kind: 'split', text: 'Still here' }, ordinary, never)).toEqual({
      terms: ['still', 'here'],
    })
  })

  it('are replaced where a task does not end; it fails, those behind it too, and others are served', async () => {
    const texts = threads({ taskTimeoutMs: 600 })
    const endless = { kind: 'terms', terms: ['a'], passages: ['a b '.repeat(8_000_000)] } as const
    const lost = texts.run(endless, ordinary, never)
    await expect(lost).rejects.toMatchObject({ code: 'worker_lost', retryable: true })
    expect(await texts.run({ kind: 'split', text: 'next' }, ordinary, never)).toEqual({ terms: ['next'] })
  })

  it('let go of who was cancelled, is late, or is told that they close', async () => {
    const clock = { now: 0 }
    const texts = threads({ now: () => clock.now })
    const busy = [1, 2].map(() => texts.run({ kind: 'split', text: 'a b '.repeat(200_000) }, ordinary, never))
    const stop = new AbortController()
    const cancelled = texts.run({ kind: 'split', text: 'x' }, ordinary, stop.signal)
    stop.abort(new Error('no longer wanted'))
    await expect(cancelled).rejects.toThrow('no longer wanted')
    const late = texts.run({ kind: 'split', text: 'x' }, { priority: 0, deadlineAt: 5 }, never)
    clock.now = 6
    await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' })
    await Promise.all(busy)
    await texts.close()
    await expect(texts.run({ kind: 'split', text: 'x' }, ordinary, never)).rejects.toMatchObject({ code: 'closed' })
  })
})

describe('tasks', () => {
  it('are all texts in their order, none over the bound but single texts', () => {
    const texts = Array.from({ length: 2000 }, (_, i) => 'x'.repeat(i % 97 === 0 ? 100_000 : i))
    const tasks = [...tasksOf(texts)]
    expect(tasks[0]![0]).toBe(0)
    expect(tasks.at(-1)![1]).toBe(texts.length)
    for (const [n, [from, to]] of tasks.entries()) {
      if (n > 0) expect(from).toBe(tasks[n - 1]![1])
      const units = texts.slice(from, to).join('').length
      expect(to - from === 1 || (units <= 65_536 && to - from <= 256)).toBe(true)
    }
    expect([...tasksOf([])]).toEqual([])
  })
})
