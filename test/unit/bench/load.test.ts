/** The race's load: latencies count what a request waits for those before it, and a server is never asked more than it was said. */
import { expect, test } from 'vitest'
import { arrivals, latencies, saturated } from '../../../bench/peers/load.js'

test('arrivals come as often as asked for, the same every time', () => {
  const due = arrivals(50, 2000)
  expect(due).toEqual(arrivals(50, 2000))
  expect(due.every((at, i) => at > (due[i - 1] ?? 0))).toBe(true)
  expect(Math.round(2000 / ((due.at(-1) ?? 0) / 1000))).toSatisfy(
    (perSecond: number) => perSecond > 45 && perSecond < 55,
  )
})

test('a request that waits for another is asked when it is due, and its wait counts', async () => {
  const asked: number[] = []
  let answered: () => void = () => undefined
  const first = new Promise<void>((resolve) => {
    answered = resolve
  })
  const ask = async (number: number) => {
    asked.push(number)
    if (number === 1) answered()
    // The first is not answered before the second is asked.
    else await first
  }
  const [waited = 0, other = 0] = await latencies(ask, [0, 20])
  expect(asked).toEqual([0, 1])
  // Answered only when the second is asked, which is never before it is due.
  expect(waited).toBeGreaterThanOrEqual(20)
  expect(other).toBeLessThan(waited)
})

test('at saturation each request is asked once, so many at a time', async () => {
  const asked: number[] = []
  let [under, most] = [0, 0]
  const ask = async (number: number) => {
    asked.push(number)
    most = Math.max(most, ++under)
    await new Promise(setImmediate)
    under--
  }
  await saturated(ask, 10, 3)
  expect(asked.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  expect(most).toBe(3)
})
