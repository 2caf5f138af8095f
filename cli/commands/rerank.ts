/** `rankmill rerank`: one query over documents from files or standard input. */
import { randomUUID } from 'node:crypto'
import { Command, Option } from 'commander'
import { documentsOf, requestDocument, type SourceDocument } from '../../producer/lines/source-documents.js'
import type { Source } from '../../producer/lines/text-lines.js'
import { parseRequest, type RerankInput, requestSchema } from '../../shared/protocol/request.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { addEmbeddedFlags, openSessionFor } from '../embedded/flags.js'
import { clientOptions } from '../embedded/session.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addOptions, optionsOf, PRODUCER_OPTIONS, WORKER_OPTIONS } from '../options.js'
import { requestedModel } from '../served-models.js'
import { addStrategyFlags, numberArgument, type StrategyFlags, strategyOf } from '../strategy-flags.js'
import { plainTable } from '../table.js'

const MIN_SOURCE = 20
/** Columns of the table. */
const PLACE_AND_SCORE = 14

interface RerankFlags extends StrategyFlags {
  query: string
  jsonl?: true
  json?: true
  topN?: number
}

export function rerankCommand(): Command {
  const command = new Command('rerank')
    .description('Rank documents for one query: a table on a terminal, JSON lines in a pipe.')
    .argument(
      '[files...]',
      'files of documents: one a line, or .csv, .tsv, .parquet (.gz, .zst too); standard input when none is named',
    )
    .requiredOption('-q, --query <text>', 'what the documents are ranked for')
    .addOption(
      new Option('-n, --top-n <n>', 'results to print (default: all; 10 on a terminal)').argParser(numberArgument(1)),
    )
    .option(
      '--jsonl',
      'each line is a record of JSON; {"_id": …, "title": …, "text": …, "score": …}, all but text optional; score: what the first stage gave it',
    )
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
    const { maxDocumentBytes } = options
    for await (const document of readAll(files, flags.jsonl === true, maxDocumentBytes, signal)) read.push(document)
    const cut = read.filter(({ isCut }) => isCut).length
    if (cut > 0) note(`rankmill: cut to ${maxDocumentBytes} bytes (--max-document-bytes): ${cut} documents`)
    const documents = read.map(requestDocument)
    check(documents)
    const opening = openSessionFor(command, options, signal)
    // Loaded while Redis and the workers start.
    const [session, { RerankClient }] = await Promise.all([opening, import('../../producer/client.js')])
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

async function* readAll(
  files: string[],
  asRecords: boolean,
  maxBytes: number,
  signal: AbortSignal,
): AsyncGenerator<SourceDocument> {
  if (files.length === 0) {
    if (process.stdin.isTTY) note('rankmill: reading documents from standard input, one a line; Ctrl-D ends')
    signal.addEventListener('abort', () => process.stdin.destroy(signal.reason))
  }
  const records = asRecords ? undefined : files.find((file) => /\.jsonl(\.gz|\.zst)?$/i.test(file))
  if (records !== undefined)
    note(`rankmill: ${records}: each line is a document as it stands; --jsonl takes it as a record with a text`)
  const sources: Source[] = files.length > 0 ? files : [{ name: 'stdin', chunks: process.stdin }]
  for (const source of sources) yield* documentsOf(source, asRecords, maxBytes)
}

function jsonLines(result: RerankResult, documents: readonly SourceDocument[]): string {
  return result.results
    .map((ranked, place) => {
      const document = documents[ranked.index]
      return `${JSON.stringify({ rank: place + 1, ...withId(ranked, document), source: document?.source, text: document?.text })}\n`
    })
    .join('')
}

/** An id that was too long for the request is back in its result. */
function withId(ranked: RerankResult['results'][number], document: SourceDocument | undefined) {
  return document?.id === undefined || ranked.id !== undefined ? ranked : { ...ranked, id: document.id }
}

/** The text gets what room there is; of long sources the end is shown, which tells them apart. */
function table(result: RerankResult, documents: readonly SourceDocument[]): string {
  const columns = process.stdout.columns || 80
  const sources = result.results.map(({ index }) => documents[index]?.source ?? '')
  const most = Math.max(MIN_SOURCE, Math.floor(columns / 3))
  const sourceWidth = Math.min(most, Math.max(8, ...sources.map((source) => source.length))) + 1
  const textWidth = Math.max(20, columns - sourceWidth - PLACE_AND_SCORE)
  const rows = plainTable(['#', 'score', 'text', 'source'], { colWidths: [5, 9, textWidth, sourceWidth] })
  result.results.forEach(({ index, relevance_score }, place) => {
    const text = (documents[index]?.text ?? '').replace(/\s+/g, ' ').trim()
    const cut = text.length > textWidth - 2 ? `${text.slice(0, textWidth - 3)}…` : text
    const source = sources[place] ?? ''
    const end = source.length < sourceWidth ? source : `…${source.slice(2 - sourceWidth)}`
    rows.push([place + 1, relevance_score.toFixed(5), cut, end])
  })
  return `${rows.toString()}\n`
}

function summary({ model, usage, timings_ms: t }: RerankResult): string {
  const truncated = usage.truncated > 0 ? `, ${usage.truncated} truncated` : ''
  return `rankmill: ${usage.pairs} documents (${usage.cached} from the score cache${truncated}) by ${model} in ${Math.round(t.total)} ms`
}
