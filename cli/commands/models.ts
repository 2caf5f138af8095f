/** `rankmill models`: which models are at hand, whether a folder will load, and other number formats of it. */
import { Command } from 'commander'
import { checkSource } from '../../worker/model/adding/source-check.js'
import { cardOf } from '../../worker/model/model-card.js'
import type { Finding } from '../../worker/model/model-check.js'
import { type ListedModel, listModels } from '../../worker/model/model-list.js'
import { EXIT, note } from '../exit.js'
import { cardInWords } from '../model-card-view.js'
import { addOptions, optionsOf } from '../options.js'
import { plainTable } from '../table.js'
import { addCommand } from './models-add.js'
import { quantizeCommand } from './models-quantize.js'

export function modelsCommand(): Command {
  const command = new Command('models').description(
    'Models: add one from a hub or a folder, list those at hand, show one, check one, quantise one.',
  )
  command.addCommand(
    subcommand('ls', 'Shipped models and those in the cache: formats, exits, sizes, licences.').action(list),
  )
  command.addCommand(
    subcommand('show', 'The card of one model: what it is, what is loaded of it, what was checked.')
      .argument('<name>', 'a name that ls gives, or a folder')
      .action(show),
  )
  command.addCommand(
    subcommand('check', 'Say whether a folder will load or can be added, and what is missing or inconsistent.')
      .argument('<path>', 'the folder, or ORG/NAME on a hub')
      .option('--label <label>', 'the label whose logit is the score, as for add')
      .option('--revision <name>', 'branch, tag or commit of the hub', 'main')
      .action(check),
  )
  command.addCommand(addCommand())
  command.addCommand(quantizeCommand())
  return command
}

function subcommand(name: string, description: string): Command {
  const sub = new Command(name).description(description)
  sub.option('--json', name === 'show' ? 'JSON' : 'JSON lines')
  return name === 'check' ? sub : addOptions(sub, ['cacheDir'])
}

async function list(_flags: unknown, command: Command): Promise<void> {
  const models = await listModels(optionsOf(command))
  if (wantsJson(command)) {
    for (const model of models) printJson(model)
    return
  }
  const table = plainTable(['name', 'kind', 'loads', 'exits', 'tokens', 'on disk', 'licence'])
  for (const model of models) table.push(rowOf(model))
  if (models.length > 0) process.stdout.write(`${table.toString()}\n`)
  else note('rankmill: no models ship with this installation, and none is in the cache')
}

async function show(name: string, _flags: unknown, command: Command): Promise<void> {
  const card = await cardOf(name, optionsOf(command))
  process.stdout.write(wantsJson(command) ? `${JSON.stringify(card, null, 2)}\n` : `${cardInWords(card)}\n`)
}

interface CheckFlags {
  label?: string
  revision: string
  json?: true
}

async function check(path: string, { label, revision }: CheckFlags, command: Command): Promise<void> {
  const { signal } = new AbortController()
  const { ok, findings, next } = await checkSource(path, { label, revision, signal })
  if (wantsJson(command)) for (const finding of findings) printJson(finding)
  else process.stdout.write(`${findingsTable(findings)}\n`)
  const well = next === 'loads' ? `${path} will load` : `\`rankmill models add ${path}\` can bring it into the cache`
  const ill = next === 'loads' ? `${path} will not load, or not in every format` : `${path} cannot be added`
  note(`rankmill: ${ok ? well : ill}`)
  if (!ok) process.exitCode = EXIT.failed
}

function findingsTable(findings: readonly Finding[]): string {
  const width = Math.max(80, process.stdout.columns ?? 80)
  const table = plainTable(['', 'what', 'found'], { colWidths: [7, 28, width - 37], wordWrap: true })
  for (const { ok, what, detail, fix } of findings)
    table.push([ok ? 'ok' : 'FAULT', what, fix ? `${detail}\nfix: ${fix}` : detail])
  return table.toString()
}

function rowOf({ name, source, kind, dtypes, exits, maxTokens, bytes, licence }: ListedModel): string[] {
  const formats = Object.entries(dtypes).map(([dtype, size]) => `${dtype} ${megabytes(size)}`)
  return [
    source === 'shipped' ? name : `${name}\n(${source})`,
    kind,
    formats.join('\n'),
    String(exits),
    String(maxTokens ?? '?'),
    megabytes(bytes),
    licence ?? '?',
  ]
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}

function wantsJson(command: Command): boolean {
  return command.opts<{ json?: true }>().json === true || !process.stdout.isTTY
}

function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}
