/** `rankmill worker`: one worker process. */
import { Command } from 'commander'
import { onSignals } from '../../shared/lifecycle.js'
import { modelSource } from '../../worker/model-source.js'
import { RerankWorker } from '../../worker/worker.js'
import type { ChildMessage, ParentMessage } from '../embedded/fleet.js'
import { classified, describeError, EXIT, exitCodeOf, note } from '../exit.js'
import { addOptions, isNamed, optionsOf, WORKER_OPTIONS } from '../options.js'

export function workerCommand(): Command {
  const command = new Command('worker')
    .description('Take jobs from the queue and score them until a signal says stop (a second one forces).')
    .action(async () => run(command))
  return addOptions(command, WORKER_OPTIONS)
}

async function run(command: Command): Promise<void> {
  try {
    const options = optionsOf(command)
    const metricsPortOrNext = !isNamed(command, 'metricsPort')
    const worker = await RerankWorker.start(options, modelSource(options), { metricsPortOrNext })
    const stop = async (reason: string) => {
      if (!process.send) note(`rankmill: ${reason}: finishing running jobs, a second signal forces`)
      await worker.close()
      process.exit(EXIT.done)
    }
    onSignals(stop, () => {
      void worker.close(true)
      // Jobs whose lock is not given back in time come back by themselves when it runs out.
      setTimeout(() => process.exit(EXIT.interrupted), 2000)
    })
    answerParent(worker, stop)
  } catch (error) {
    const { code, message, details } = classified(error)
    await tell({ type: 'failed', error: { code, message, ...details } })
    if (!process.send) note(describeError(error))
    process.exit(exitCodeOf(error))
  }
}

function answerParent(worker: RerankWorker, stop: (reason: string) => Promise<void>): void {
  if (!process.send) return
  process.on('message', async (message: ParentMessage) => {
    if (message.type === 'metrics')
      await tell({ type: 'metrics', snapshot: await worker.metrics.registry.getMetricsAsJSON() })
  })
  // A parent that was killed cannot say stop.
  process.on('disconnect', () => void stop('the parent process ended'))
  void tell({ type: 'ready', metricsUrl: worker.metricsUrl })
}

function tell(message: ChildMessage): Promise<void> {
  return new Promise((resolve) => {
    if (process.send && process.connected) process.send(message, undefined, {}, () => resolve())
    else resolve()
  })
}
