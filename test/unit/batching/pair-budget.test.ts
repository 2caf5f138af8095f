import { expect, it } from 'vitest'
import { PairBudget } from '../../../worker/batching/pair-budget.js'

const never = new AbortController().signal
const ordinary = { priority: 0, deadlineAt: null }
const isPending = async (promise: Promise<unknown>) =>
  (await Promise.race([promise, new Promise((r) => setImmediate(r, 'pending'))])) === 'pending'

function setUp(pairs: number, clock = { now: 0 }) {
  return new PairBudget({ pairs, maxAgeMs: 1000, now: () => clock.now })
}

it('holds back what does not fit, in order, and admits it when room comes back', async () => {
  const budget = setUp(10)
  const lease = await budget.take(8, ordinary, never)
  const big = budget.take(5, ordinary, never)
  const small = budget.take(1, ordinary, never)
  expect(await isPending(big)).toBe(true)
  expect(await isPending(small)).toBe(true)
  lease.release()
  lease.release()
  ;(await big).release()
  ;(await small).release()
  ;(await budget.take(10, ordinary, never)).release()
})

it('lets a job larger than the budget run alone', async () => {
  const budget = setUp(10)
  const lease = await budget.take(1000, ordinary, never)
  const next = budget.take(1, ordinary, never)
  expect(await isPending(next)).toBe(true)
  lease.release()
  ;(await next).release()
})

it('lets those behind a cancelled job through', async () => {
  const budget = setUp(10)
  const lease = await budget.take(8, ordinary, never)
  const controller = new AbortController()
  const cancelled = budget.take(5, ordinary, controller.signal)
  const small = budget.take(2, ordinary, never)
  controller.abort(new Error('cancelled'))
  await expect(cancelled).rejects.toThrow('cancelled')
  ;(await small).release()
  lease.release()
})

it('serves the most urgent first, says how long each waited, and lets nobody starve', async () => {
  const clock = { now: 0 }
  const budget = setUp(1, clock)
  const order: string[] = []
  let lease = await budget.take(1, ordinary, never)
  const waiting: Promise<void>[] = []
  const add = (name: string, priority: number, deadlineAt: number | null) => {
    const taken = budget.take(1, { priority, deadlineAt }, never)
    waiting.push(
      taken.then((own) => {
        order.push(`${name} ${own.waitedMs}`)
        lease = own
      }),
    )
  }
  add('bulk', 500, null)
  add('none', 0, null)
  add('later', 0, 9000)
  add('sooner', 0, 8000)
  clock.now = 2000
  for (const name of ['a', 'b', 'c']) add(name, 0, null)
  for (let i = 0; i < 7; i++) {
    lease.release()
    await new Promise(setImmediate)
  }
  await Promise.all(waiting)
  expect(order).toEqual(['sooner 2000', 'later 2000', 'none 2000', 'bulk 2000', 'a 0', 'b 0', 'c 0'])
})

it('ends who waited past its deadline, and keeps no room for it', async () => {
  const clock = { now: 0 }
  const budget = setUp(1, clock)
  const lease = await budget.take(1, ordinary, never)
  const late = budget.take(1, { priority: 0, deadlineAt: 10 }, never)
  clock.now = 11
  lease.release()
  await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' })
  ;(await budget.take(1, ordinary, never)).release()
})

it('counts what a job came to, not what was expected of it', async () => {
  const budget = setUp(10)
  const lease = await budget.take(1, ordinary, never)
  lease.resize(10)
  const next = budget.take(5, ordinary, never)
  expect(await isPending(next)).toBe(true)
  lease.resize(5)
  ;(await next).release()
  lease.release()
})
