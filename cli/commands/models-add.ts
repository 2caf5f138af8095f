/** `rankmill models add`: from a hub's id or a folder to a model that workers serve. */
import { Command, Option } from 'commander'
import type { OptionName } from '../../shared/options.js'
import { QUANTIZED_DTYPES, type QuantizedDtype } from '../../worker/model/model-quantization.js'
import { note } from '../exit.js'
import { interruptible } from '../interruption.js'
import { addListFlags, type ListFlags, measuredLists, measuringOptions } from '../measured-lists.js'
import { addModel } from '../model-adding.js'
import { addOptions, optionsOf } from '../options.js'

interface AddFlags extends ListFlags {
  dtype: 'fp32' | QuantizedDtype
  revision: string
  label?: string
  name?: string
  reference: boolean
  force?: true
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
    .option('--json', 'what was done, as JSON')
    .action(async (model: string) => add(model, command))
  return addOptions(addListFlags(command), SHARED)
}

async function add(model: string, command: Command): Promise<void> {
  await interruptible('stopping; the same command goes on from here', async ({ signal }) => {
    const flags = command.opts<AddFlags>()
    const { dtype, revision, label, name, reference, force, json } = flags
    const options = measuringOptions(optionsOf(command))
    const sample = await measuredLists(flags, options)
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
        sample,
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
