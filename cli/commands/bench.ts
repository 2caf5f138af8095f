/** `rankmill bench`: this machine's pairs a second, by model, number format and batch shape. */
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { Command, InvalidArgumentError, Option } from 'commander'
import { RankmillError } from '../../shared/errors.js'
import { makeLogger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import { fixedShape, sessionCounts, tokenBudgets } from '../../worker/inference/batch-shape.js'
import { chooseDevice, type TriedDevice } from '../../worker/inference/device.js'
import { createEngine } from '../../worker/inference/session-pool.js'
import { measureSpeed, type Speed } from '../../worker/inference/speed.js'
import { type BiEncoderModel, openBiEncoder } from '../../worker/model/bi-encoder-model.js'
import { type Device, type Model, openModel } from '../../worker/model/model.js'
import { DTYPES, type Dtype } from '../../worker/model/model-folder.js'
import { type ListedModel, listModels, showModel } from '../../worker/model/model-list.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, optionsOf } from '../options.js'
import { numberArgument } from '../strategy-flags.js'
import { plainTable } from '../table.js'

interface BenchFlags {
  models?: string
  dtypes?: string
  tokens: number[]
  ms: number
  json?: true
}

/** Times the time of a shape. */
const TOO_LONG = 10

/** One shape; a bi-encoder's pairs are single texts. */
interface Row extends Speed {
  readonly model: string
  readonly dtype: Dtype
  /** Tokens of a pair. */
  readonly tokens: number
  readonly sessions: number
  readonly threadsPerSession: number
  readonly pairsPerCall: number
  /** The fastest of this model, number format and length. */
  best: boolean
}

export function benchCommand(): Command {
  const command = new Command('bench')
    .description('Measure how many pairs a second this machine scores, by model, number format and batch shape.')
    .option('--models <names>', 'models, divided by commas (default: those that ship)')
    .option(
      '--dtypes <types>',
      `number formats, divided by commas: ${DTYPES.join(', ')} (default: those of each model)`,
    )
    .addOption(
      new Option('--tokens <n>', 'tokens of a pair; several divided by commas')
        .argParser(tokensArgument)
        .default([128], '128'),
    )
    .addOption(new Option('--ms <n>', 'time for each shape').argParser(numberArgument(1)).default(500))
    .option('--json', 'JSON lines')
    .action(async () => run(command))
  return addOptions(command, ['cacheDir', 'device', 'threads', 'sessions', 'batchPairs', 'batchTokens', 'logLevel'])
}

async function run(command: Command): Promise<void> {
  await interruptible('stopping', ({ signal }) => bench(command, signal))
}

async function bench(command: Command, signal: AbortSignal): Promise<void> {
  const flags = command.opts<BenchFlags>()
  const options = optionsOf(command)
  const device = await chooseDevice(options.device, makeLogger(options.logLevel, 'rankmill-bench'))
  const rows: Row[] = []
  for (const name of flags.models?.split(',') ?? (await shipped(options))) {
    const listed = await described(name, options, device)
    for (const dtype of wantedDtypes(flags, listed)) {
      note(`rankmill: measuring ${listed.name} in ${dtype}`)
      const found = await measureModel(
        await open(name, listed.kind, dtype, options, device),
        flags,
        options,
        device.device,
        signal,
      )
      rows.push(...found)
      if (flags.json) for (const row of found) process.stdout.write(`${JSON.stringify(row)}\n`)
    }
  }
  if (!flags.json) process.stdout.write(`${tableOf(rows)}\n`)
}

async function shipped(options: Options): Promise<string[]> {
  return (await listModels(options)).filter(({ source }) => source === 'shipped').map(({ name }) => name)
}

/** A model that is not here yet is fetched by opening it. */
async function described(
  name: string,
  options: Options,
  device: TriedDevice,
): Promise<Pick<ListedModel, 'name' | 'kind' | 'dtypes'>> {
  try {
    return await showModel(name, options)
  } catch (error) {
    if (!(error instanceof RankmillError) || error.code !== 'unknown_model') throw error
    const { dtype } = await open(name, 'cross-encoder', 'auto', options, device)
    return { name, kind: 'cross-encoder', dtypes: { [dtype]: 0 } }
  }
}

function wantedDtypes(
  { dtypes }: BenchFlags,
  { name, dtypes: present }: Pick<ListedModel, 'name' | 'dtypes'>,
): Dtype[] {
  const wanted = dtypes?.split(',')
  const unknown = wanted?.find((one) => !(DTYPES as readonly string[]).includes(one))
  if (unknown !== undefined) {
    const message = `dtypes: must be of ${DTYPES.join(', ')}; got ${unknown}`
    throw new RankmillError('invalid_configuration', message, { param: 'dtypes' })
  }
  const found = DTYPES.filter((dtype) => present[dtype] !== undefined && (wanted?.includes(dtype) ?? true))
  if (found.length === 0)
    note(`rankmill: ${name} has none of ${wanted?.join(', ')}, only ${Object.keys(present).join(', ')}`)
  return found
}

/** @param device what `auto` has come to */
function open(
  name: string,
  kind: string,
  dtype: Dtype | 'auto',
  { cacheDir }: Options,
  { device, halves }: TriedDevice,
) {
  const opening = { dtype, device, halves, cacheDir, allowHub: true }
  return kind === 'bi-encoder' ? openBiEncoder(name, opening) : openModel(name, opening)
}

async function measureModel(
  model: Model | BiEncoderModel,
  { tokens, ms }: BenchFlags,
  options: Options,
  device: Device,
  signal: AbortSignal,
): Promise<Row[]> {
  const place = {
    device,
    threads: options.threads || availableParallelism(),
    sessions: options.sessions,
    batchPairs: options.batchPairs,
    batchTokens: options.batchTokens,
    cacheDir: options.cacheDir,
    log: makeLogger(options.logLevel, 'rankmill-bench'),
    calibrate: false,
    callTimeoutMs: options.callTimeoutMs,
  } as const
  const fixed = fixedShape(place)
  const rows: Row[] = []
  for (const sessions of sessionCounts((await stat(model.modelPath)).size, place, fixed)) {
    const engine = await createEngine(model, { ...place, sessions })
    try {
      for (const length of tokens.map((wanted) => Math.min(wanted, model.maxTokens))) {
        const sizes = tokenBudgets(place, fixed).map(
          (budget) => fixed.batchPairs || Math.max(1, Math.floor(budget / length)),
        )
        for (const size of new Set(sizes)) {
          signal.throwIfAborted()
          const speed = await measureSpeed(engine, size, length, ms, () => performance.now())
          const { threadsPerSession } = engine.shape
          const shape = { tokens: length, sessions, threadsPerSession, pairsPerCall: size }
          rows.push({ model: model.name, dtype: model.dtype, ...shape, ...speed, best: false })
          // Where a call takes far longer than its time, larger ones would take minutes and say nothing new.
          if (speed.msPerCall > TOO_LONG * ms) break
        }
      }
    } finally {
      await engine.close()
    }
  }
  for (const length of new Set(rows.map((row) => row.tokens))) {
    const own = rows.filter((row) => row.tokens === length)
    const fastest = own.reduce((best, row) => (row.pairsPerSecond > best.pairsPerSecond ? row : best))
    fastest.best = true
  }
  return rows
}

function tableOf(rows: readonly Row[]): string {
  const table = plainTable(
    ['', 'model', 'format', 'tokens', 'sessions', 'threads', 'a call', 'ms', 'pairs/s', 'tokens/s'],
    { colAligns: ['left', 'left', 'left', ...new Array<'right'>(7).fill('right')] },
  )
  for (const row of rows) {
    const { model, dtype, tokens, sessions, threadsPerSession, pairsPerCall } = row
    const rate = row.pairsPerSecond < 10 ? row.pairsPerSecond.toFixed(1) : Math.round(row.pairsPerSecond)
    const speed = [row.msPerCall.toFixed(1), rate, Math.round(row.tokensPerSecond)]
    table.push([row.best ? '→' : '', model, dtype, tokens, sessions, threadsPerSession, pairsPerCall, ...speed])
  }
  return table.toString()
}

function tokensArgument(value: string): number[] {
  const lengths = value.split(',').map(Number)
  if (lengths.some((length) => !Number.isInteger(length) || length < 8))
    throw new InvalidArgumentError('must be whole numbers of at least 8, divided by commas')
  return lengths
}
