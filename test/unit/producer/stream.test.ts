import { describe, expect, it } from 'vitest'
import { inWindow } from '../../../producer/stream.js'

function deferred() {
  let open: () => void = () => undefined
  const promise = new Promise<void>((resolve) => {
    open = resolve
  })
  return { promise, open }
}

describe('inWindow', () => {
  it('never has more under way than the window, results not taken included', async () => {
    let running = 0
    let most = 0
    const stream = inWindow(
      Array.from({ length: 50 }, (_, i) => i),
      4,
      async (i) => {
        most = Math.max(most, ++running)
        await new Promise(setImmediate)
        running--
        return i
      },
    )
    const seen: number[] = []
    for await (const i of stream) seen.push(i)
    expect(most).toBe(4)
    expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i))
  })

  it('reads the source only as far as the consumer takes', async () => {
    let read = 0
    function* source() {
      for (;;) yield read++
    }
    const stream = inWindow(source(), 3, async (i) => i)
    await stream.next()
    await new Promise(setImmediate)
    expect(read).toBeLessThanOrEqual(5)
    await stream.return(undefined)
  })

  it('gives results as they are done, not in the order of the inputs', async () => {
    const first = deferred()
    const stream = inWindow(['slow', 'quick'], 2, async (name) => {
      if (name === 'slow') await first.promise
      return name
    })
    expect((await stream.next()).value).toBe('quick')
    first.open()
    expect((await stream.next()).value).toBe('slow')
    expect((await stream.next()).done).toBe(true)
  })

  it('lets what runs finish, then throws what the source threw', async () => {
    async function* source() {
      yield 1
      throw new Error('the file ended early')
    }
    const seen: number[] = []
    const consume = async () => {
      for await (const i of inWindow(source(), 4, async (i) => i)) seen.push(i)
    }
    await expect(consume()).rejects.toThrow('the file ended early')
    expect(seen).toEqual([1])
  })

  it('closes the source when the consumer stops', async () => {
    let closed = false
    async function* source() {
      try {
        for (let i = 0; ; i++) yield i
      } finally {
        closed = true
      }
    }
    for await (const i of inWindow(source(), 2, async (i) => i)) if (i === 3) break
    expect(closed).toBe(true)
  })
})
