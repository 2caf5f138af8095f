/** Runs a stream of inputs with a bounded number under way. */

/**
 * Results in order of completion. Reads an input only when there is room in the window; ends the source when the
 * consumer stops early. What `run` throws ends the stream, after what is under way has settled.
 */
export async function* inWindow<T, R>(
  source: Iterable<T> | AsyncIterable<T>,
  window: number,
  run: (input: T, position: number) => Promise<R>,
): AsyncGenerator<R> {
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  const done: R[] = []
  let position = 0
  let running = 0
  let ended = false
  let failure: { error: unknown } | undefined
  let wake: () => void = () => undefined

  const start = (input: T) => {
    running++
    run(input, position++)
      .then(
        (result) => void done.push(result),
        (error) => {
          failure ??= { error }
        },
      )
      .finally(() => {
        running--
        wake()
      })
  }
  try {
    let reading: Promise<void> | undefined
    const read = async () => {
      try {
        const next = await iterator.next()
        if (next.done) ended = true
        else start(next.value)
      } catch (error) {
        failure ??= { error }
      } finally {
        reading = undefined
        wake()
      }
    }
    for (;;) {
      for (let result = done.shift(); result !== undefined; result = done.shift()) yield result
      if (failure && running === 0) throw failure.error
      if (ended && running === 0 && done.length === 0) return
      // Results not yet taken count: a slow consumer holds the window back.
      if (!reading && !ended && !failure && running + done.length < window) reading = read()
      if (done.length > 0) continue
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  } finally {
    if (!ended) await iterator.return?.()
  }
}
