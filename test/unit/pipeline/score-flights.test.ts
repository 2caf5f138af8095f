import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { KnownScore } from '../../../worker/pipeline/score-cache.js'
import { ScoreFlights } from '../../../worker/pipeline/score-flights.js'

const urgency = { priority: 0, deadlineAt: null }
const score = (logit: number): KnownScore => ({ logit, truncated: false })
const pairs = (...names: string[]) => new Map(names.map((name, place) => [place, name]))

it('gives a pair to one job, and its score to all that asked meanwhile', async () => {
  const flights = new ScoreFlights()
  const first = flights.claim(pairs('a', 'b', 'a'), urgency)
  const second = flights.claim(pairs('b', 'c'), urgency)
  expect(first.mine).toEqual([0, 1])
  expect([...first.others.keys()]).toEqual([2])
  expect(second.mine).toEqual([1])
  first.land(0, score(1))
  first.land(1, score(2))
  first.release()
  expect(await first.others.get(2)).toEqual(score(1))
  expect(await second.others.get(0)).toEqual(score(2))
  expect(flights.claim(pairs('a'), urgency).mine).toEqual([0])
})

it('tells those who wait when a pair ends without a score', async () => {
  const flights = new ScoreFlights()
  const first = flights.claim(pairs('a'), urgency)
  const second = flights.claim(pairs('a'), urgency)
  first.release()
  expect(await second.others.get(0)).toBeUndefined()
  expect(flights.size).toBe(0)
})

it('makes nobody wait for what is less urgent', () => {
  const flights = new ScoreFlights()
  const order = [
    { priority: 500, deadlineAt: null },
    { priority: 500, deadlineAt: 2000 },
    { priority: 500, deadlineAt: 1000 },
    { priority: 0, deadlineAt: 1000 },
  ]
  const claims = order.map((one) => flights.claim(pairs('a'), one))
  for (const { mine } of claims) expect(mine).toEqual([0])
  expect(flights.claim(pairs('a'), { priority: 0, deadlineAt: 5000 }).others.size).toBe(1)
  // Those that were overtaken take nothing away with them.
  claims[0]!.release()
  expect(flights.size).toBe(1)
  claims[3]!.release()
  expect(flights.size).toBe(0)
})

it('scores every pair, each once, whatever the order and whoever fails', async () => {
  const job = fc.record({
    names: fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e'), { minLength: 1, maxLength: 6 }),
    fails: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(job, { minLength: 1, maxLength: 8 }), fc.scheduler(), async (jobs, s) => {
      const flights = new ScoreFlights()
      const known = new Map<string, KnownScore>()
      const scored: string[] = []
      const run = async ({ names, fails }: (typeof jobs)[number], id: number) => {
        const wanted = new Map(pairs(...names))
        let rounds = 0
        while (true) {
          for (const [place, name] of wanted) if (known.has(name)) wanted.delete(place)
          if (wanted.size === 0) return
          expect(rounds++).toBeLessThan(20)
          const claim = flights.claim(wanted, urgency)
          try {
            await s.schedule(Promise.resolve(), `job ${id}`)
            if (fails) return
            for (const place of claim.mine) {
              scored.push(names[place]!)
              known.set(names[place]!, score(0))
              claim.land(place, score(0))
            }
          } finally {
            claim.release()
          }
          await Promise.all(claim.others.values())
        }
      }
      const ends = Promise.all(jobs.map(run))
      await s.waitFor(ends)
      const needed = new Set(jobs.filter(({ fails }) => !fails).flatMap(({ names }) => names))
      expect([...scored].sort()).toEqual([...needed].sort())
      expect(flights.size).toBe(0)
    }),
  )
})
