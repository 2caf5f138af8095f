/** `rankmill models add`: from a hub's id or a folder to a model that workers serve. */
import { Command, Option } from 'commander'
import { readLists } from '../../producer/tune/list-data.js'
import type { OptionName } from '../../shared/options.js'
import { QUANTIZED_DTYPES, type QuantizedDtype } from '../../worker/model/model-quantization.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addModel } from '../model-adding.js'
import { addOptions, optionsOf } from '../options.js'
import { builtInSample } from '../quantization-report.js'
import { numberArgument } from '../strategy-flags.js'

interface AddFlags {
  dtype: 'fp32' | QuantizedDtype
  revision: string
  label?: string
  name?: string
  reference: boolean
  force?: true
  data?: string
  sample: number
  depth: number
  json?: true
}

const SHARED: readonly OptionName[] = [
  'python',
  'cacheDir',
  'threads',
  'sessions',
  'batchPairs',
  'batchTokens',
  'calibrate',
  'maxLineBytes',
  'logLevel',
]

export function addCommand(): Command {
  const command = new Command('add')
    .description(
      'Bring a cross-encoder from a hub or a folder into the cache: exported, checked against the reference, measured.',
    )
    .argument('<model>', 'ORG/NAME on a hub (HF_ENDPOINT, HF_TOKEN), or a folder')
    .addOption(
      new Option('--dtype <type>', 'make this number format, too: int8, int4 or fp16')
        .choices(['fp32', ...QUANTIZED_DTYPES])
        .default('fp32'),
    )
    .option('--revision <name>', 'branch, tag or commit of the hub', 'main')
    .option('--label <label>', 'the label whose logit is the score: a name or a number of config.json')
    .option('--name <org/name>', 'what workers are to call it (default: the id; local/FOLDER of a folder)')
    .option('--no-reference', 'do not compare with sentence-transformers (needs torch)')
    .option('--force', 'begin anew, and replace what is there')
    .option('--data <path>', 'measure with: a file of requests, or a folder in BEIR layout')
    .addOption(new Option('--sample <n>', 'lists of the data to measure with').argParser(numberArgument(1)).default(20))
    .addOption(new Option('--depth <n>', 'documents of a list').argParser(numberArgument(2)).default(100))
    .option('--json', 'what was done, as JSON')
    .action(async (model: string) => add(model, command))
  return addOptions(command, SHARED)
}

async function add(model: string, command: Command): Promise<void> {
  await interruptible('stopping; the same command goes on from here', async ({ signal }) => {
    const { dtype, revision, label, name, reference, force, data, sample, depth, json } = command.opts<AddFlags>()
    const given = optionsOf(command)
    const options = { ...given, logLevel: given.logLevel === 'info' ? ('warn' as const) : given.logLevel }
    const lists = data === undefined ? builtInSample() : await readLists(data, sample, depth, options)
    const wanted = dtype === 'fp32' ? undefined : dtype
    const done = await addModel(
      model,
      {
        dtype: wanted,
        revision,
        label,
        name,
        reference,
        force: force === true,
        lists,
        data: data ?? 'a small built-in sample',
        isOwnData: data !== undefined,
        signal,
        say: (line) => note(`rankmill: ${line}`),
      },
      options,
    )
    if (json === true) process.stdout.write(`${JSON.stringify(done)}\n`)
    const elsewhere = options.cacheDir === '.rankmill/cache' ? '' : ` --cache-dir ${options.cacheDir}`
    const format = wanted === undefined ? '' : ` --dtype ${wanted}`
    note(
      `rankmill: \`rankmill worker --model ${done.name}${format}${elsewhere}\` serves it; \`rankmill up\` takes the same flags`,
    )
  })
}
