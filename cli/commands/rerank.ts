/** `rankmill rerank`: one query over documents from files or standard input. */
import Table from 'cli-table3'
import { Command, Option } from 'commander'
import { RerankClient } from '../../producer/client.js'
import { documentsOf, requestDocument, type SourceDocument } from '../../producer/lines/source-documents.js'
import type { Source } from '../../producer/lines/text-lines.js'
import type { RerankResult } from '../../shared/protocol/result.js'
import { addEmbeddedFlags, countArgument, openSessionFor } from '../embedded/flags.js'
import { note } from '../exit.js'
import { addOptions, optionsOf, PRODUCER_OPTIONS, WORKER_OPTIONS } from '../options.js'
import { addStrategyFlags, type StrategyFlags, strategyOf } from '../strategy-flags.js'

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
      new Option('-n, --top-n <n>', 'results to print (default: all; 10 on a terminal)').argParser(countArgument),
    )
    .option(
      '--jsonl',
      'each line is {"_id": …, "title": …, "text": …, "score": …}, all but text optional; score: what the first stage gave it',
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
  const documents = await readAll(files, flags.jsonl === true, options.maxDocumentBytes)
  const cut = documents.filter(({ isCut }) => isCut).length
  if (cut > 0) note(`rankmill: cut to ${options.maxDocumentBytes} bytes (--max-document-bytes): ${cut} documents`)
  const session = await openSessionFor(command, options)
  const client = new RerankClient(session.options)
  try {
    const asTable = process.stdout.isTTY && !flags.json
    const result = await client.rerank({
      query: flags.query,
      documents: documents.map(requestDocument),
      model: command.getOptionValueSource('model') === 'cli' ? options.model : undefined,
      topN: flags.topN ?? (asTable ? 10 : undefined),
      maxTokensPerDoc: flags.maxTokensPerDoc,
      strategy: strategyOf(flags),
    })
    process.stdout.write(asTable ? table(result, documents) : jsonLines(result, documents))
    if (asTable) note(summary(result))
  } finally {
    await client.close()
    await session.stop()
  }
}

async function readAll(files: string[], asRecords: boolean, maxBytes: number): Promise<SourceDocument[]> {
  const sources: Source[] = files.length > 0 ? files : [{ name: 'stdin', chunks: process.stdin }]
  if (files.length === 0 && process.stdin.isTTY)
    note('rankmill: reading documents from standard input, one a line; Ctrl-D ends')
  const documents: SourceDocument[] = []
  for (const source of sources)
    for await (const document of documentsOf(source, asRecords, maxBytes)) documents.push(document)
  return documents
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
