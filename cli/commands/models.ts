/** `rankmill models`: which models are at hand, whether a folder will load, and other number formats of it. */
import { stat } from 'node:fs/promises'
import { Command } from 'commander'
import { RankmillError } from '../../shared/errors.js'
import { checkModel, type Finding } from '../../worker/model/model-check.js'
import { type ListedModel, listModels, showModel } from '../../worker/model/model-list.js'
import { EXIT, note } from '../exit.js'
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
    subcommand('show', 'One model, as JSON.').argument('<name>', 'a name that ls gives, or a folder').action(show),
  )
  command.addCommand(
    subcommand('check', 'Say whether a folder will load, and what is missing or inconsistent.')
      .argument('<path>', 'the folder')
      .action(check),
  )
  command.addCommand(addCommand())
  command.addCommand(quantizeCommand())
  return command
}

function subcommand(name: string, description: string): Command {
  const sub = new Command(name).description(description)
  if (name !== 'show') sub.option('--json', 'JSON lines')
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
  const model = await showModel(name, optionsOf(command))
  process.stdout.write(`${JSON.stringify(model, null, 2)}\n`)
}

async function check(path: string, _flags: unknown, command: Command): Promise<void> {
  if (!(await stat(path).catch(() => undefined))?.isDirectory()) {
    throw new RankmillError('unknown_model', `${path} is not a folder`, { param: 'path' })
  }
  const { ok, findings } = await checkModel(path)
  if (wantsJson(command)) for (const finding of findings) printJson(finding)
  else process.stdout.write(`${findingsTable(findings)}\n`)
  note(`rankmill: ${path} ${ok ? 'will load' : 'will not load, or not in every format'}`)
  if (!ok) process.exitCode = EXIT.someFailed
}

function findingsTable(findings: readonly Finding[]): string {
  const width = Math.max(80, process.stdout.columns ?? 80)
  const table = plainTable(['', 'what', 'found'], { colWidths: [6, 28, width - 36], wordWrap: true })
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
