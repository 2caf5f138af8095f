/** Logs go to standard error: JSON lines, or readable ones on a terminal. */
import pino, { type Logger } from 'pino'
import pretty from 'pino-pretty'

export type { Logger }

/** What ioredis hangs on its errors: arguments of commands, so passwords and texts. */
const HIDDEN = ['command', 'previousErrors', 'lastNodeError', 'aggregateErrors'].map((field) => `err.${field}`)

export function makeLogger(level: string, name: string): Logger {
  const stream = process.stderr.isTTY
    ? pretty({ destination: 2, sync: true, ignore: 'pid,hostname,name', translateTime: 'HH:MM:ss' })
    : pino.destination({ dest: 2, sync: true })
  return pino({ level, name, redact: { paths: HIDDEN, remove: true } }, stream)
}
