/** `rankmill batch run`: a file of requests in, a file of answers out; run again after any end, it goes on. */
import { Command, Option } from 'commander'
import { type BatchFileOptions, openBatch } from '../../producer/batch/batch-file.js'
import { retryFailed } from '../../producer/batch/retry-failed.js'
import { RankmillError } from '../../shared/errors.js'
import { addBatchFlags, type BatchFlags, requestDefaults } from '../batch-flags.js'
import { type Afterwards, reportRun, workOff } from '../batch-work.js'
import { optionsOf } from '../options.js'
import { numberArgument } from '../strategy-flags.js'

interface BatchRunFlags extends BatchFlags {
  unordered?: true
  details?: true
  retryFailed?: true
  topN?: number
  returnDocuments?: true
  missing?: 'error' | 'skip'
}

const STANDARD = '-'

export function batchRunCommand(): Command {
  const command = new Command('run')
    .description(
      'Rerank every request of a JSONL file. Run the same command again after any end, kills included: it goes on.',
    )
    .argument(
      '<input>',
      'requests, one a line: OpenAI or Voyage batch lines, or bare requests; .gz, .zst, or - for standard input',
    )
    .requiredOption('-o, --output <file>', 'answers, one a line; .gz or .zst compress; - for standard output')
    .option('--unordered', 'write answers as they come, not in the order of the input')
    .option('--details', "write each answer's times and cache use; the same input then gives other bytes each time")
    .option('--retry-failed', 'run again what failed in a finished run, and put the answers in place')
    .addOption(
      new Option('--top-n <n>', 'results of requests that do not say (default: all)').argParser(numberArgument(1)),
    )
    .option('--return-documents', 'put the texts into the results of requests that do not say')
    .addOption(
      new Option(
        '--missing <what>',
        'what becomes of ids that a corpus lacks, where a request does not say: error, or skip (default: error)',
      ).choices(['error', 'skip']),
    )
    .action(async (input: string) => run(command, input))
  return addBatchFlags(command)
}

async function run(command: Command, input: string): Promise<void> {
  const flags = command.opts<BatchRunFlags>()
  const options = optionsOf(command)
  const output = flags.output === STANDARD ? undefined : flags.output
  const batch: BatchFileOptions = {
    input: input === STANDARD ? process.stdin : input,
    output: output ?? process.stdout,
    defaults: { ...requestDefaults(command, options), topN: flags.topN, returnDocuments: flags.returnDocuments },
    missing: flags.missing,
    unordered: flags.unordered,
    details: flags.details,
    maxErrors: flags.maxErrors,
    overwrite: flags.overwrite,
    allowModelChange: flags.allowModelChange,
    allowCorpusChange: flags.allowCorpusChange,
    options,
  }
  const retry = flags.retryFailed ? retrying(batch, input, output) : undefined
  try {
    const opened = await openBatch(batch)
    const json = flags.json === true
    const report = await workOff(command, options, opened, json, retry)
    await reportRun(report, output, json, !opened.wasFinished || retry !== undefined)
  } finally {
    // A pipe that nobody closes would keep the process.
    if (input === STANDARD) process.stdin.destroy()
  }
}

function retrying(batch: BatchFileOptions, input: string, output: string | undefined): Afterwards {
  const refuse = (why: string): never => {
    throw new RankmillError('invalid_configuration', `--retry-failed: ${why}`, { param: 'retryFailed' })
  }
  if (input === STANDARD) refuse('reads the input again, and so needs a file')
  if (batch.overwrite) refuse('and --overwrite exclude each other')
  if (output === undefined) return refuse('needs an output file')
  return (client, watch) => retryFailed(client, { ...batch, output }, watch)
}
