/** Logs go to standard error: JSON lines, or readable ones on a terminal. */
import pino, { type Logger } from 'pino'
import pretty from 'pino-pretty'

export type { Logger }

export function makeLogger(level: string, name: string): Logger {
  const stream = process.stderr.isTTY
    ? pretty({ destination: 2, sync: true, ignore: 'pid,hostname,name', translateTime: 'HH:MM:ss' })
    : pino.destination({ dest: 2, sync: true })
  return pino({ level, name }, stream)
}
