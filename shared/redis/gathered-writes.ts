/** Commands that are sent in one turn of the event loop leave in one write: a system call costs as much as a small script. */
import type { Redis } from 'ioredis'

/** Has an effect on a connection of its own only; whatever was sent has left before the event loop turns to anything else. */
export function gatherWrites<T extends Redis>(redis: T): T {
  const send = redis.sendCommand.bind(redis)
  let gathering: Redis['stream'] | undefined
  redis.sendCommand = (command, stream) => {
    const socket = redis.stream
    if (gathering !== socket && socket !== undefined) {
      gathering = socket
      socket.cork()
      // After all that answers that came together set off.
      process.nextTick(() => {
        if (gathering === socket) gathering = undefined
        socket.uncork()
      })
    }
    return send(command, stream)
  }
  return redis
}
