/** `rankmill doctor`: what Rankmill stands on here, each with a fix where it does not hold. */
import { access, constants } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { Command } from 'commander'
import { fleetState } from '../../monitoring/queue-collector.js'
import { RankmillError } from '../../shared/errors.js'
import type { Options } from '../../shared/options.js'
import { checkServer, infoField, withoutPassword } from '../../shared/redis/connection.js'
import type { Shard } from '../../shared/redis/shards.js'
import { showsGpu, tryDevice } from '../../worker/inference/device.js'
import { listShapes } from '../../worker/inference/kept-shape.js'
import { disableTelemetry } from '../../worker/inference/telemetry.js'
import { openModel } from '../../worker/model/model.js'
import { describeError, EXIT } from '../exit.js'
import { addOptions, optionsOf, WORKER_OPTIONS } from '../options.js'
import { type SeenShards, seeShards } from '../seen-shards.js'
import { unservedLines } from './status.js'

const DEVICES = ['cpu', 'cuda', 'webgpu'] as const

interface Finding {
  readonly what: string
  readonly state: 'ok' | 'warning' | 'fault'
  readonly detail: string
  readonly fix?: string
}

export function doctorCommand(): Command {
  const command = new Command('doctor')
    .description('Check Node, Redis, the models and the native libraries; each fault comes with its fix.')
    .option('--json', 'JSON lines')
    .action(async () => run(command))
  return addOptions(command, WORKER_OPTIONS)
}

async function run(command: Command): Promise<void> {
  const options = optionsOf(command)
  const findings = [
    checkNode(),
    ...(await checkRedis(options)),
    ...(await checkRuntime()),
    ...(await checkDevices(options)),
    ...(await checkModels(options)),
    ...(await checkCalibration(options)),
    await checkCache(options),
  ]
  const json = command.opts<{ json?: true }>().json || !process.stdout.isTTY
  for (const finding of findings) process.stdout.write(`${json ? JSON.stringify(finding) : line(finding)}\n`)
  if (findings.some((f) => f.state === 'fault'))
    process.exitCode = findings.some((f) => f.state === 'fault' && f.what === 'Redis') ? EXIT.redis : EXIT.failed
}

function line({ what, state, detail, fix }: Finding): string {
  const mark = { ok: '✔', warning: '!', fault: '✘' }[state]
  return `${mark} ${what}: ${detail}${fix ? `\n    fix: ${fix}` : ''}`
}

function checkNode(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const ok = major > 20 || (major === 20 && minor >= 12)
  return {
    what: 'Node',
    state: ok ? 'ok' : 'fault',
    detail: process.versions.node,
    ...(ok ? {} : { fix: 'install Node 20.12 or later' }),
  }
}

async function checkRedis(options: Options): Promise<Finding[]> {
  let seen: SeenShards
  try {
    seen = await seeShards(options)
  } catch (error) {
    const { code, message, advice } = RankmillError.from(error)
    if (code === 'invalid_configuration') return [{ what: 'Shards', state: 'fault', detail: message, fix: advice }]
    const fix = `${advice} Commands like \`rankmill rerank\` start a private Redis where none is named.`
    return [{ what: 'Redis', state: 'fault', detail: message, fix }]
  }
  try {
    const servers = await Promise.all(seen.shards.map((shard) => checkShard(options.redis, shard)))
    const { queues, workers, shards, away } = await fleetState(seen.shards)
    const left = workers.length === 0 ? [] : shards.filter((one) => one.workers.length < workers.length)
    return [
      ...servers.flat(),
      ...[...seen.away, ...away].map(({ index, prefix, error }): Finding => {
        const detail = `shard ${index} (${prefix}): ${error.message}`
        return { what: 'Redis', state: 'fault', detail, fix: error.advice }
      }),
      {
        what: 'Workers',
        state: workers.length > 0 ? 'ok' : 'warning',
        detail: `${workers.length} alive on queue "${options.queue}"`,
        ...(workers.length > 0 ? {} : { fix: '`rankmill worker`, or `rankmill up`' }),
      },
      ...left.map(({ shard, workers: heard }): Finding => {
        const detail = `${heard.length} of ${workers.length} are heard in shard ${shard.index} (${shard.keys.prefix})`
        return {
          what: 'Workers',
          state: 'warning',
          detail,
          fix: 'look whether they reach the primary that has its slot',
        }
      }),
      ...unservedLines(queues).map((line): Finding => {
        const detail = line.replace(/^rankmill: /, '')
        return { what: 'Requests', state: 'warning', detail, fix: '`rankmill worker --model …` with what it names' }
      }),
    ]
  } finally {
    seen.close()
  }
}

async function checkShard(url: string, { redis, keys, index, count }: Shard): Promise<Finding[]> {
  const info = await redis.info('everything')
  checkServer(info)
  const field = (name: string) => infoField(info, name) ?? '?'
  const own = count === 1 ? '' : `shard ${index} (${keys.prefix}): `
  const used = `${field('maxmemory_policy')}, ${field('used_memory_human')} in use`
  const detail = `${own}${field('redis_version')} at ${withoutPassword(url)}, ${used}`
  return [
    { what: 'Redis', state: 'ok', detail },
    field('aof_enabled') === '1'
      ? { what: 'Redis persistence', state: 'ok', detail: `${own}append-only file on` }
      : {
          what: 'Redis persistence',
          state: 'warning',
          detail: `${own}append-only file off: a crash of Redis loses queued jobs`,
          fix: 'redis-cli config set appendonly yes, and in redis.conf',
        },
  ]
}

async function checkRuntime(): Promise<Finding[]> {
  try {
    disableTelemetry()
    const ort = await import('onnxruntime-node')
    const version = (createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }).version
    const backends = ort.listSupportedBackends().map((b) => b.name)
    return [{ what: 'ONNX Runtime', state: 'ok', detail: `${version}, made for ${backends.join(', ')}` }]
  } catch (error) {
    const fix = 'reinstall with `npm ci`; on a system without glibc there is no prebuilt library'
    return [{ what: 'ONNX Runtime', state: 'fault', detail: (error as Error).message, fix }]
  }
}

/** Every device is tried. One that is not there is a fault only where it is asked for. */
async function checkDevices({ device: wanted }: Options): Promise<Finding[]> {
  const tried = await Promise.all(DEVICES.map(tryDevice))
  return tried.map(({ device, fault, fix, halves }): Finding => {
    const what = `Device ${device}`
    if (fault === undefined) return { what, state: 'ok', detail: halves ? 'computes' : 'computes, but not fp16' }
    if (device === wanted) return { what, state: 'fault', detail: fault, ...(fix ? { fix } : {}) }
    if (wanted === 'auto' && showsGpu()) return { what, state: 'warning', detail: fault, ...(fix ? { fix } : {}) }
    return { what, state: 'ok', detail: `not here: ${fault}` }
  })
}

async function checkModels(options: Options): Promise<Finding[]> {
  const { cacheDir, dtype, device } = options
  return Promise.all(
    options.model.split(',').map(async (name): Promise<Finding> => {
      try {
        const model = await openModel(name.trim(), { cacheDir, dtype, device, allowHub: false })
        return { what: 'Model', state: 'ok', detail: `${model.name} (${model.dtype}), ${model.maxTokens} tokens` }
      } catch (error) {
        return {
          what: 'Model',
          state: 'fault',
          detail: describeError(error).split('\n')[0] ?? '',
          fix: RankmillError.from(error).advice,
        }
      }
    }),
  )
}

/** The batch shapes that were measured here, the newest of each model, format and number of threads. */
async function checkCalibration({ cacheDir, calibrate }: Options): Promise<Finding[]> {
  const what = 'Batch shape'
  if (!calibrate) return [{ what, state: 'ok', detail: 'not measured: --no-calibrate takes a usual one' }]
  const kept = await listShapes(cacheDir)
  if (kept.length === 0) return [{ what, state: 'ok', detail: 'not measured yet: the first start of a worker does' }]
  const newest = new Map(kept.reverse().map((one) => [`${one.model} ${one.dtype} ${one.device} ${one.threads}`, one]))
  return Array.from(newest.values(), ({ model, dtype, threads, shape, tokensPerSecond, measuredAt, busy }): Finding => {
    const detail =
      `${model} ${dtype}, ${threads} thread(s): ${shape.sessions} session(s), ${shape.batchTokens} tokens a call, ` +
      `${tokensPerSecond} tokens/s on ${new Date(measuredAt).toISOString().slice(0, 10)}`
    if (measuredAt === 0)
      return {
        what,
        state: 'ok',
        detail: `${model} ${dtype}, ${threads} thread(s): real calls were faster than what was measured; the next start measures anew`,
      }
    if (!busy) return { what, state: 'ok', detail }
    const fix = 'start a worker again when the machine is idle: after ten minutes it measures anew'
    return { what, state: 'warning', detail: `${detail}, while other processes used the cores`, fix }
  })
}

async function checkCache({ cacheDir }: Options): Promise<Finding> {
  const exists = await access(cacheDir, constants.W_OK).then(
    () => 'writable',
    (error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? 'made when first needed' : undefined),
  )
  if (exists) return { what: 'Cache folder', state: 'ok', detail: `${cacheDir} (${exists})` }
  return {
    what: 'Cache folder',
    state: 'warning',
    detail: `${cacheDir} is not writable`,
    fix: 'name another with --cache-dir',
  }
}
