/** A test file that leaves a socket, a server, a child process or a thread behind fails. */
import type { Worker } from 'node:worker_threads'
import { afterAll } from 'vitest'

const WATCHED = ['TCPSocketWrap', 'PipeWrap', 'TCPServerWrap', 'ProcessWrap']
/** Closed sockets and ended processes take a moment to go. */
const CLOSING_MS = 5000
const POLL_MS = 25

// Opened when they are first used, and nobody's leak.
void [process.stdin, process.stdout, process.stderr]
const before = count()
const threads = new Set<Worker>()
process.on('worker', (thread) => {
  threads.add(thread)
  thread.once('exit', () => threads.delete(thread))
})

afterAll(async () => {
  const until = Date.now() + CLOSING_MS
  while (leaked().length > 0 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, POLL_MS))
  if (leaked().length > 0) throw new Error(`left open by this file: ${leaked().join(', ')}`)
})

function count(): Map<string, number> {
  const counts = new Map<string, number>()
  for (const name of process.getActiveResourcesInfo()) counts.set(name, (counts.get(name) ?? 0) + 1)
  return counts
}

function leaked(): string[] {
  const now = count()
  const handles = WATCHED.flatMap((name) => {
    const more = (now.get(name) ?? 0) - (before.get(name) ?? 0)
    return more > 0 ? [`${more} ${name}`] : []
  })
  return threads.size > 0 ? [...handles, `${threads.size} thread(s)`] : handles
}
