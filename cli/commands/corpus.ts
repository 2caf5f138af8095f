/** `rankmill corpus`: passages that requests name instead of carrying them, in Redis or in a folder. */
import { resolve } from 'node:path'
import { type Options as ProgressOptions, SingleBar } from 'cli-progress'
import { Command } from 'commander'
import { buildCorpus } from '../../producer/corpora/corpus-build.js'
import { CorpusWriter } from '../../producer/corpora/corpus-writer.js'
import { idsOf, passagesOf } from '../../producer/corpora/passage-lines.js'
import type { CorpusInfo } from '../../shared/corpus/corpora.js'
import { type CorpusDescription, CorpusFolder } from '../../shared/corpus/corpus-folder.js'
import { checkCorpusName, folderOf } from '../../shared/corpus/corpus-name.js'
import type { CorpusShelves } from '../../shared/corpus/corpus-shelves.js'
import { onSignals } from '../../shared/lifecycle.js'
import type { OptionName, Options } from '../../shared/options.js'
import { connectProducer, reaching } from '../../shared/redis/connection.js'
import { Shards } from '../../shared/redis/shards.js'
import { redisIsGiven } from '../embedded/flags.js'
import { findOrStartRedis } from '../embedded/redis.js'
import { EXIT, note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'
import { plainTable } from '../table.js'
import { embedNamed, nameAndVersion } from './corpus-embed.js'

const FLAGS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'shards', 'commandTimeoutMs']

export function corpusCommand(): Command {
  const command = new Command('corpus').description(
    'Passages stored once, that requests name: in Redis, or in a folder.',
  )
  const put = subcommand('put', 'Store a file of passages in Redis: adds, and replaces those of the same ids.')
    .argument('<name>', 'what requests call the corpus')
    .argument('<file>', 'JSON lines {"_id", "title", "text"} or {"id", "text"}, also .gz or .zst; - for standard input')
    .option('--replace', 'the file is the whole corpus: drop what it does not hold')
  put.action((name: string, file: string) => putFile(put, name, file))
  const build = subcommand('build', 'Make a read-only corpus folder, for corpora that outgrow Redis’s memory.')
    .argument('<file>', 'as for put')
    .requiredOption('-o, --output <folder>', 'must not be there yet')
  build.action((file: string) => buildFolder(build, file))
  const embed = subcommand('embed', 'Store the embeddings that a prefilter needs, so that no request waits for them.')
    .argument('<name>', 'of a corpus in Redis; name@version for a version that is pinned')
    .option('--model <name>', 'the bi-encoder: a shipped name, a folder, or a hub id', 'filter')
  embed.action((name: string) => embedPassages(embed, name))
  addOptions(embed, ['device', 'threads', 'cacheDir', 'logLevel'])
  const ls = subcommand('ls', 'The corpora in Redis: passages, version, memory.')
  ls.action(() => list(ls))
  const show = subcommand('show', 'One corpus, as JSON.').argument('<corpus>', 'a name, or file: and a folder')
  show.action((name: string) => showOne(show, name))
  const rm = subcommand('rm', 'Remove a corpus from Redis, or some of its passages.')
    .argument('<name>')
    .option('--ids <file>', 'only these passages: ids, one a line; - for standard input')
  rm.action((name: string) => remove(rm, name))
  for (const sub of [put, embed, ls, show, rm]) addOptions(sub, FLAGS)
  for (const sub of [put, build, rm]) addOptions(sub, ['maxDocumentBytes'])
  for (const sub of [put, build, embed, ls, rm]) sub.option('--json', 'JSON, on a terminal too')
  for (const sub of [put, build, embed, ls, show, rm]) command.addCommand(sub)
  return command
}

function subcommand(name: string, description: string): Command {
  return new Command(name).description(description)
}

async function putFile(command: Command, name: string, file: string): Promise<void> {
  const options = optionsOf(command)
  checkCorpusName(name)
  const { replace = false } = command.opts<{ replace?: true }>()
  const report = await withCorpora(command, options, (corpora) =>
    interruptible(file, (onProgress, signal) =>
      writerOf(corpora, name).put(name, passagesOf(file, options), { replace, onProgress, signal }),
    ),
  )
  if (!report) return
  const { given, grown, ...info } = report
  print(command, { ...json(info), put: given, grown }, `${given} passages put into ${sizeOf(info)}`)
}

async function buildFolder(command: Command, file: string): Promise<void> {
  const { output } = command.opts<{ output: string }>()
  const options = optionsOf(command)
  const built = await interruptible(file, (onProgress, signal) =>
    buildCorpus(passagesOf(file, options), output, { onProgress, signal }),
  )
  if (!built) return
  const corpus = `file:${resolve(output)}`
  print(
    command,
    { corpus, ...describe(built) },
    `${built.passages} passages in ${corpus}, ${megabytes(built.dataBytes)}`,
  )
}

async function embedPassages(command: Command, named: string): Promise<void> {
  const { model } = command.opts<{ model: string }>()
  const options = optionsOf(command)
  nameAndVersion(named)
  const report = await withCorpora(command, options, (corpora) =>
    interruptible(
      named,
      (onProgress, signal) => embedNamed(corpora, named, model, options, { onProgress, signal }),
      'run it again to go on',
    ),
  )
  if (!report) return
  const { name, version, passages, embedded } = report
  print(
    command,
    report,
    `${embedded} passages embedded; ${passages} of ${name} (version ${version}) by ${report.model}`,
  )
}

async function list(command: Command): Promise<void> {
  const infos = await withCorpora(command, optionsOf(command), (corpora) => corpora.list())
  if (wantsJson(command)) {
    for (const info of infos) printJson(json(info))
    return
  }
  const table = plainTable(['name', 'passages', 'version', 'kept', 'memory', 'changed'])
  for (const { name, passages, version, versions, bytes, updatedAt } of infos) {
    table.push([name, passages, version, versions.join(' '), megabytes(bytes), new Date(updatedAt).toISOString()])
  }
  if (infos.length > 0) process.stdout.write(`${table.toString()}\n`)
  else note('rankmill: no corpora in this Redis')
}

async function showOne(command: Command, name: string): Promise<void> {
  const folder = folderOf(name)
  if (folder !== undefined) {
    const opened = await CorpusFolder.open(resolve(folder))
    await opened.close()
    process.stdout.write(
      `${JSON.stringify({ corpus: `file:${resolve(folder)}`, ...describe(opened.description) }, null, 2)}\n`,
    )
    return
  }
  checkCorpusName(name)
  const info = await withCorpora(command, optionsOf(command), (corpora) => corpora.of(name).info(name))
  process.stdout.write(`${JSON.stringify(json(info), null, 2)}\n`)
}

async function remove(command: Command, name: string): Promise<void> {
  const options = optionsOf(command)
  const { ids } = command.opts<{ ids?: string }>()
  checkCorpusName(name)
  await withCorpora(command, options, async (corpora) => {
    if (ids === undefined) {
      await corpora.of(name).remove(name)
      print(command, { name, removed: true }, `corpus ${name} removed`)
      return
    }
    const { given, grown, ...info } = await writerOf(corpora, name).deletePassages(name, idsOf(ids, options))
    print(command, { ...json(info), ids: given, removed: -grown }, `${-grown} passages removed from ${sizeOf(info)}`)
  })
}

/** Corpora need Redis and no worker: the one that is named, else the private one that other commands use. */
async function withCorpora<T>(
  command: Command,
  options: Options,
  run: (corpora: CorpusShelves) => Promise<T>,
): Promise<T> {
  const given = redisIsGiven(command) ? { url: options.redis } : {}
  const found = await findOrStartRedis({
    ...given,
    dataDir: '.rankmill/redis',
    log: (line) => note(`rankmill: ${line}`),
  })
  try {
    if (found.started) note(`rankmill: ${found.description}`)
    const shards = await Shards.open({ ...options, redis: found.url }, connectProducer, 'producer')
    try {
      return await reaching(() => run(shards.corpora))
    } finally {
      shards.close()
    }
  } finally {
    await found.stop()
  }
}

function writerOf(corpora: CorpusShelves, name: string): CorpusWriter {
  const { redis, keys } = corpora.placeOf(name)
  return new CorpusWriter(redis, keys)
}

type LongRun<T> = (onProgress: (passages: number) => void, signal: AbortSignal) => Promise<T>

/** Runs with a bar on a terminal. The first signal stops it and undoes what is half done; undefined then. */
async function interruptible<T>(file: string, run: LongRun<T>, then = 'nothing was changed'): Promise<T | undefined> {
  const stop = new AbortController()
  const stopSignals = onSignals(
    () => {
      stop.abort()
      // Nobody may write to it any more.
      if (file === '-') process.stdin.destroy()
    },
    () => process.exit(EXIT.interrupted),
  )
  if (file === '-' && process.stdin.isTTY)
    note('rankmill: reading passages from standard input, one a line; Ctrl-D ends')
  const bar = progressBar()
  try {
    return await run((passages) => bar?.update(passages), stop.signal)
  } catch (error) {
    if (!stop.signal.aborted) throw error
    bar?.stop()
    note(`rankmill: interrupted; ${then}`)
    process.exitCode = EXIT.interrupted
    return undefined
  } finally {
    bar?.stop()
    stopSignals()
  }
}

function progressBar(): SingleBar | undefined {
  if (!process.stderr.isTTY) return undefined
  const format: ProgressOptions['format'] = (_options, { value, startTime }) => {
    const seconds = Math.max(0.001, (Date.now() - startTime) / 1000)
    return `rankmill: ${value} passages, ${Math.round(value / seconds)}/s`
  }
  const bar = new SingleBar({ format, stream: process.stderr, hideCursor: true, clearOnComplete: true })
  bar.start(0, 0)
  return bar
}

function json({ updatedAt, ...info }: CorpusInfo) {
  return { ...info, updated_at: new Date(updatedAt).toISOString() }
}

function describe({ passages, version, textBytes, dataBytes, formatVersion, builtAt }: CorpusDescription) {
  return { passages, version, text_bytes: textBytes, bytes: dataBytes, format: formatVersion, built_at: builtAt }
}

function sizeOf({ name, passages, version, bytes }: CorpusInfo): string {
  return `${name}: ${passages} passages now (version ${version}, ${megabytes(bytes)} of Redis's memory)`
}

function megabytes(bytes: number | null): string {
  return bytes === null ? '?' : `${(bytes / 1e6).toFixed(1)} MB`
}

function print(command: Command, value: object, line: string): void {
  if (wantsJson(command)) printJson(value)
  else process.stdout.write(`${line}\n`)
}

function wantsJson(command: Command): boolean {
  return command.opts<{ json?: true }>().json === true || !process.stdout.isTTY
}

function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}
