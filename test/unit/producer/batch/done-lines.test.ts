/** Which lines of an input are done, against a plain set of them. */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { DoneLines } from '../../../../producer/batch/done-lines.js'

const at = (line: number) => ({ line, end: line * 10, digest: `up to ${line}` })
const START = { line: 0, offset: 0, digest: 'up to 0' }

it('agrees with a plain set, whatever the order, and however often it is taken up again', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 40 }),
      fc.array(fc.record({ read: fc.nat(8), finish: fc.array(fc.nat(39), { maxLength: 12 }), again: fc.boolean() })),
      (lines, steps) => {
        // Every third line is blank: it has a number and no item.
        const input = Array.from({ length: lines }, (_, i) => i + 1).filter((line) => line % 3 !== 0)
        const finished = new Set<number>()
        let done = new DoneLines(START, 0, [])
        let read = 0
        for (const { read: more, finish, again } of steps) {
          for (const line of input.slice(read, read + more)) expect(done.begin(at(line))).toBe(finished.has(line))
          read = Math.min(input.length, read + more)
          for (const i of finish) {
            const line = input[i]
            if (line === undefined || i >= read || finished.has(line)) continue
            done.finish(at(line))
            finished.add(line)
          }
          const undone = input.findIndex((line, i) => i >= read || !finished.has(line))
          const passed = undone === -1 ? input.length : undone
          const covered = done.beyond().flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, i) => a + i))
          const beyond = new Set(covered.filter((line) => line % 3 !== 0))
          // Where items were done before, and are not read again, the mark waits for them.
          expect(done.items).toBeLessThanOrEqual(passed)
          expect(new Set([...input.slice(0, done.items), ...beyond])).toEqual(finished)
          const last = input[done.items - 1] ?? 0
          expect(done.mark).toEqual({ line: last, offset: last * 10, digest: `up to ${last}` })
          if (again) {
            done = new DoneLines(done.mark, done.items, done.beyond())
            read = done.items
          }
        }
      },
    ),
  )
})

it('holds one stretch, however many lines are done behind one that is not', () => {
  const done = new DoneLines(START, 0, [])
  done.begin(at(1))
  for (let line = 2; line <= 200_000; line++) {
    done.begin(at(line))
    done.finish(at(line))
  }
  expect(done.beyond()).toEqual([[2, 200_000]])
  done.finish(at(1))
  expect(done.mark).toEqual({ line: 200_000, offset: 2_000_000, digest: 'up to 200000' })
  expect(done.items).toBe(200_000)
  expect(done.beyond()).toEqual([])
})
