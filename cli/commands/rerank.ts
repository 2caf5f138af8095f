/** `rankmill rerank`: one query over documents from files or standard input. */
import { randomUUID } from 'node:crypto'
import Table from 'cli-table3'
import { Command, Option } from 'commander'
import { z } from 'zod'
import { RerankClient } from '../../producer/client.js'
import { nameOf, type Source, textLines } from '../../producer/lines/text-lines.js'
import { RankmillError } from '../../shared/errors.js'
import { parseRequest, type RerankInput, requestSchema } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { addEmbeddedFlags, openSessionFor } from '../embedded/flags.js'
import { clientOptions } from '../embedded/session.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, optionsOf, PRODUCER_OPTIONS, WORKER_OPTIONS } from '../options.js'
import { requestedModel } from '../served-models.js'
import { addStrategyFlags, numberArgument, type StrategyFlags, strategyOf } from '../strategy-flags.js'

interface SourceDocument {
  readonly id?: string
  readonly text: string
  readonly score?: number
  /** file:line */
  readonly source: string
}

interface RerankFlags extends StrategyFlags {
  query: string
  jsonl?: true
  json?: true
  topN?: number
}

/** Other fields of the line are the caller's business. */
const documentLine = z.object({ id: z.string().optional(), text: z.string(), score: z.number().optional() })

export function rerankCommand(): Command {
  const command = new Command('rerank')
    .description('Rank documents for one query: a table on a terminal, JSON lines in a pipe.')
    .argument('[files...]', 'files of documents, one a line (.gz, .zst too); standard input when none is named')
    .requiredOption('-q, --query <text>', 'what the documents are ranked for')
    .addOption(
      new Option('-n, --top-n <n>', 'results to print (default: all; 10 on a terminal)').argParser(numberArgument(1)),
    )
    .option('--jsonl', 'each line is {"id": …, "text": …, "score": …}; score: what the first stage gave it')
    .option('--json', 'JSON lines, on a terminal too')
    .action(async (files: string[]) => run(command, files))
  addStrategyFlags(command)
  addEmbeddedFlags(command)
  return addOptions(command, [...PRODUCER_OPTIONS, ...WORKER_OPTIONS])
}

async function run(command: Command, files: string[]): Promise<void> {
  const flags = command.opts<RerankFlags>()
  const options = optionsOf(command)
  const asTable = process.stdout.isTTY && !flags.json
  const request = {
    query: flags.query,
    instruction: flags.instruction,
    model: requestedModel(command, options),
    topN: flags.topN ?? (asTable ? 10 : undefined),
    maxTokensPerDoc: flags.maxTokensPerDoc,
    strategy: strategyOf(flags),
  }
  const check = (documents: RerankInput['documents']) =>
    parseRequest({ ...request, documents }, requestSchema(options), randomUUID)
  // What the flags say is found wrong before documents are read, and these before anything is started.
  check([{ text: '-', score: 0 }])
  await interruptible('stopping', async ({ signal, forced }) => {
    const read: SourceDocument[] = []
    for await (const document of readAll(files, flags.jsonl === true, signal)) read.push(document)
    const documents = read.map(({ source: _, ...document }) => document)
    check(documents)
    const session = await openSessionFor(command, options, signal)
    forced.addEventListener('abort', () => void session.stop(true))
    const client = new RerankClient(clientOptions(session))
    try {
      const result = await client.rerank({ ...request, documents }, { signal })
      process.stdout.write(asTable ? table(result, read) : jsonLines(result, read))
      if (asTable) note(summary(result))
    } finally {
      await client.close()
      await session.stop(signal.aborted)
    }
  })
}

async function* readAll(files: string[], jsonl: boolean, signal: AbortSignal): AsyncGenerator<SourceDocument> {
  if (files.length === 0) {
    if (process.stdin.isTTY) note('rankmill: reading documents from standard input, one a line; Ctrl-D ends')
    signal.addEventListener('abort', () => process.stdin.destroy(signal.reason))
    yield* readLines({ name: 'stdin', chunks: process.stdin }, jsonl)
  }
  for (const file of files) yield* readLines(file, jsonl)
}

async function* readLines(input: Source, jsonl: boolean): AsyncGenerator<SourceDocument> {
  for await (const { number, text } of textLines(input)) {
    const source = `${nameOf(input)}:${number}`
    yield jsonl ? { ...parseLine(text, source), source } : { text, source }
  }
}

function parseLine(text: string, source: string): Omit<SourceDocument, 'source'> {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    const hint = /^[^{]*[,;\t]/.test(text)
      ? '; it looks like CSV or plain text: without --jsonl each line is a document'
      : ''
    const message = `${source}: not JSON: ${(error as Error).message}${hint}`
    throw new RankmillError('invalid_request', message, { param: source })
  }
  const line = documentLine.safeParse(parsed)
  if (line.success) {
    const { id, text, score } = line.data
    return { text, ...(id === undefined ? {} : { id }), ...(score === undefined ? {} : { score }) }
  }
  const message = `${source}: must be {"id": "…", "text": "…", "score": 1.5}, of which id and score are optional`
  throw new RankmillError('invalid_request', message, { param: source })
}

function jsonLines(result: RerankResult, documents: readonly SourceDocument[]): string {
  return result.results
    .map((ranked, place) => {
      const document = documents[ranked.index]
      return `${JSON.stringify({ rank: place + 1, ...ranked, source: document?.source, text: document?.text })}\n`
    })
    .join('')
}

function table(result: RerankResult, documents: readonly SourceDocument[]): string {
  const columns = process.stdout.columns || 100
  const sources = result.results.map(({ index }) => documents[index]?.source ?? '')
  const sourceWidth = Math.min(40, Math.max(8, ...sources.map((s) => s.length + 2)))
  const textWidth = Math.max(20, columns - sourceWidth - 21)
  const rows = new Table({
    head: ['#', 'score', 'text', 'source'],
    colWidths: [5, 10, textWidth, sourceWidth],
    style: { head: ['bold'] },
  })
  result.results.forEach(({ index, relevance_score }, place) => {
    const text = (documents[index]?.text ?? '').replace(/\s+/g, ' ').trim()
    const cut = text.length > textWidth - 2 ? `${text.slice(0, textWidth - 3)}…` : text
    rows.push([place + 1, relevance_score.toFixed(5), cut, sources[place] ?? ''])
  })
  return `${rows.toString()}\n`
}

function summary({ model, usage, timings_ms: t }: RerankResult): string {
  const truncated = usage.truncated > 0 ? `, ${usage.truncated} truncated` : ''
  return `rankmill: ${usage.pairs} documents (${usage.cached} from the score cache${truncated}) by ${model} in ${Math.round(t.total)} ms`
}
