/** `rankmill worker`: one worker process. */
import { Command } from 'commander'
import { onSignals } from '../../shared/lifecycle.js'
import type { Options } from '../../shared/options.js'
import { connectProducer } from '../../shared/redis/connection.js'
import { changedMeanwhile } from '../../shared/redis/shards.js'
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
  // Before all else: a parent that is killed cannot say stop, and says nothing to those who do not listen yet.
  let parentIsGone: () => void = () => process.exit(EXIT.interrupted)
  if (process.send) {
    process.once('disconnect', () => parentIsGone())
    if (!process.connected) parentIsGone()
  }
  try {
    const options = optionsOf(command)
    const metricsPortOrNext = !isNamed(command, 'metricsPort')
    const source = modelSource(options)
    let worker: RerankWorker
    let isStopping = false
    const begin = async () => {
      let onOtherSize: (has: number) => void = () => undefined
      const otherSizeSeen = new Promise<number>((resolve) => {
        onOtherSize = resolve
      })
      worker = await RerankWorker.start(options, source, { metricsPortOrNext, onOtherSize })
      otherSizeSeen.then(follow).catch(fail)
    }
    const follow = async (has: number) => {
      await worker.close()
      if (isStopping) return
      // Whoever named a number is to decide.
      if (options.shards !== 0) throw changedMeanwhile(options, has, options.shards)
      await begin()
      void tell({ type: 'ready', metricsUrl: worker.metricsUrl })
    }
    await begin()
    const stop = async (reason: string) => {
      isStopping = true
      if (!process.send) note(`rankmill: ${reason}: finishing running jobs, a second signal forces`)
      await worker.close()
      process.exit(EXIT.done)
    }
    onSignals(stop, () => {
      void worker.close(true)
      // Jobs whose lock is not given back in time come back by themselves when it runs out.
      setTimeout(() => process.exit(EXIT.interrupted), 2000)
    })
    parentIsGone = () => {
      void endWithRedis(options)
      void stop('the parent process ended')
    }
    answerParent(() => worker)
  } catch (error) {
    await fail(error)
  }
}

async function fail(error: unknown): Promise<never> {
  const { code, message, details } = classified(error)
  await tell({ type: 'failed', error: { code, message, ...details } })
  if (!process.send) note(describeError(error))
  process.exit(exitCodeOf(error))
}

/** A parent's private Redis goes with it, and without Redis nothing can be finished or given back: no reason to stay. */
async function endWithRedis(options: Options): Promise<void> {
  const leave = () => process.exit(EXIT.interrupted)
  try {
    const redis = await connectProducer(options)
    redis.once('close', leave)
    if (redis.status !== 'ready') leave()
  } catch {
    leave()
  }
}

function answerParent(worker: () => RerankWorker): void {
  if (!process.send) return
  process.on('message', async (message: ParentMessage) => {
    if (message.type === 'metrics')
      await tell({ type: 'metrics', snapshot: await worker().metrics.registry.getMetricsAsJSON() })
  })
  void tell({ type: 'ready', metricsUrl: worker().metricsUrl })
}

function tell(message: ChildMessage): Promise<void> {
  return new Promise((resolve) => {
    if (process.send && process.connected) process.send(message, undefined, {}, () => resolve())
    else resolve()
  })
}
