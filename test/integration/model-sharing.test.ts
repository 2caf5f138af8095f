/** What a worker loads once, though it is asked for in several ways. */
import { expect, it } from 'vitest'
import { useStage } from './stage.js'

const stage = useStage()

it('serves a number format by name and by default with one copy', async () => {
  const worker = await stage().worker()
  const [byDefault, byName, other] = await Promise.all([
    worker.scorers.get(null, 'auto'),
    worker.scorers.get(null, 'fp32'),
    worker.scorers.get(null, 'int8'),
  ])
  expect(byName).toBe(byDefault)
  expect(other).not.toBe(byDefault)
  expect([...worker.scorers.loaded]).toHaveLength(2)
})
