import { expect, it } from 'vitest'
import { PairBudget } from '../../../worker/batching/pair-budget.js'

const never = new AbortController().signal
const isPending = async (promise: Promise<unknown>) =>
  (await Promise.race([promise, new Promise((r) => setImmediate(r, 'pending'))])) === 'pending'

it('holds back what does not fit, in order, and admits it when room comes back', async () => {
  const budget = new PairBudget(10)
  const back = await budget.take(8, never)
  const big = budget.take(5, never)
  const small = budget.take(1, never)
  expect(await isPending(big)).toBe(true)
  expect(await isPending(small)).toBe(true)
  back()
  back()
  ;(await big)()
  ;(await small)()
  ;(await budget.take(10, never))()
})

it('lets a job larger than the budget run alone', async () => {
  const budget = new PairBudget(10)
  const back = await budget.take(1000, never)
  const next = budget.take(1, never)
  expect(await isPending(next)).toBe(true)
  back()
  ;(await next)()
})

it('lets those behind a cancelled job through', async () => {
  const budget = new PairBudget(10)
  const back = await budget.take(8, never)
  const controller = new AbortController()
  const cancelled = budget.take(5, controller.signal)
  const small = budget.take(2, never)
  controller.abort(new Error('cancelled'))
  await expect(cancelled).rejects.toThrow('cancelled')
  ;(await small)()
  back()
})
