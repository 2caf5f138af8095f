/** Starts redis-keeper.ts as a process of its own and hears from it once. */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type ErrorCode, RankmillError } from '../../shared/errors.js'
import type { Launch } from './redis-launch.js'

/** What a keeper is told, as its one argument. */
export interface KeeperTask {
  readonly dataDir: string
  /** How to start Redis, where none runs when it is this keeper's turn. */
  readonly launch: Launch
}

/** What it answers, once. */
export type KeeperAnswer =
  | { readonly type: 'ready' /** Redis was started by this keeper. */; readonly started: boolean }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string }

const KEEPER = fileURLToPath(new URL('./redis-keeper.js', import.meta.url))

export interface StartedKeeper {
  /** Redis was started, rather than found running. */
  readonly started: boolean
  /** To be called when this process has connected as a user: until then the keeper waits for that. */
  release(): void
}

/** @throws RankmillError `redis_unavailable` where Redis could not be started */
export async function startKeeper(dataDir: string, launch: Launch): Promise<StartedKeeper> {
  const task: KeeperTask = { dataDir, launch }
  const keeper = fork(KEEPER, [JSON.stringify(task)], {
    // A session of its own: Ctrl-C is for the command, and the keeper outlives it by a moment.
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    execArgv: [],
  })
  const release = () => {
    if (keeper.connected) keeper.disconnect()
    keeper.unref()
  }
  const answer = await new Promise<KeeperAnswer>((resolve) => {
    keeper.once('message', (message) => resolve(message as KeeperAnswer))
    const failed = (message: string) => resolve({ type: 'failed', code: 'redis_unavailable', message })
    keeper.once('error', (error) => failed(error.message))
    keeper.once('exit', (code, signal) =>
      failed(`the process that keeps Redis ended (${signal ?? `exit code ${code}`})`),
    )
  })
  if (answer.type === 'ready') return { started: answer.started, release }
  release()
  throw new RankmillError(answer.code, answer.message)
}
