/** `rankmill models quantize`: another number format of the user's own model, and what it costs in quality. */
import { Command, Option } from 'commander'
import type { OptionName } from '../../shared/options.js'
import { QUANTIZED_DTYPES, type QuantizedDtype, quantizeModel } from '../../worker/model/model-quantization.js'
import { idsOf } from '../../worker/offline/text-ids.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addListFlags, type ListFlags, measuredLists, measuringOptions } from '../measured-lists.js'
import { measuringTexts } from '../measuring-texts.js'
import { addOptions, optionsOf } from '../options.js'
import { MEASURING, measureQuantization, quantizationTable, schemeLines } from '../quantization-report.js'

interface QuantizeFlags extends ListFlags {
  dtype: QuantizedDtype
  head: 'whole' | 'yes-no'
  out?: string
  force?: true
  json?: true
}

const SHARED: readonly OptionName[] = [
  'python',
  'threads',
  'sessions',
  'batchPairs',
  'batchTokens',
  'calibrate',
  'maxTokens',
  'truncation',
  'maxLineBytes',
  'cacheDir',
  'logLevel',
]

export function quantizeCommand(): Command {
  const command = new Command('quantize')
    .description('Write a model of yours in another number format, and measure what that changes.')
    .argument('<path>', 'a cross-encoder in Hugging Face layout, with an fp32 graph')
    .addOption(
      new Option('--dtype <type>', 'int8 (batch-invariant), int4 (weights alone) or fp16')
        .choices(QUANTIZED_DTYPES)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option('--head <what>', 'of a causal model: all of its head, or the two answers alone, in far less memory')
        .choices(['whole', 'yes-no'])
        .default('whole'),
    )
    .option('--out <folder>', "write there, with copies of tokeniser and configuration (default: the model's folder)")
    .option('--force', 'replace what is there')
    .option('--json', 'all figures as JSON')
    .action(async (path: string) => quantize(path, command))
  return addOptions(addListFlags(command), SHARED)
}

async function quantize(path: string, command: Command): Promise<void> {
  await interruptible('stopping', ({ signal }) => quantizeUntil(signal, path, command))
}

async function quantizeUntil(signal: AbortSignal, path: string, command: Command): Promise<void> {
  const flags = command.opts<QuantizeFlags>()
  const { dtype, head, out, force, json } = flags
  const options = measuringOptions(optionsOf(command))
  const measured = await measuredLists(flags, options)
  const { lists, name, areOwn } = measured
  note(`rankmill: quantising ${path} to ${dtype}${dtype === 'int8' ? MEASURING : ''}`)
  const { python, threads } = options
  const texts = async (folder: string) => idsOf(folder, await measuringTexts(measured), options)
  const model = await quantizeModel(path, { dtype, head, out, force: force === true, python, threads, texts, signal })
  note(
    `rankmill: wrote ${model.path}: ${counted(model.linears, 'linear layer')}, ${counted(model.tables, 'embedding table')}`,
  )
  for (const line of schemeLines(model)) note(`rankmill: ${line}`)
  const report = await measureQuantization(model, dtype, lists, name, options, signal)
  const asJson = json === true || !process.stdout.isTTY
  process.stdout.write(asJson ? `${JSON.stringify(report)}\n` : quantizationTable(report))
  if (!areOwn) note('rankmill: measured with a small built-in sample: --data FILE measures with yours')
  note(`rankmill: \`rankmill worker --model ${out ?? path} --dtype ${dtype}\` serves it`)
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
