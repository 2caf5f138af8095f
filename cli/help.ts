/** What `--help` shows: what most people need, on one screen; `--help-all` shows everything, with defaults and variables. */
import { type Command, Help, type Option } from 'commander'
import { OPTIONS } from '../shared/options.js'

/** Of the table of options those that are shown at first: by every command, and by those that are about workers. */
const FIRST = new Set(['redis', 'model', 'dtype', 'python'])
const FIRST_OF_WORKERS = new Set(['queue', 'device', 'concurrency', 'threads', 'metricsPort'])
const ABOUT_WORKERS = new Set(['up', 'worker', 'bench'])
/** Of the other flags those that are not. */
const LATER = new Set([
  'maxTokensPerDoc',
  'prefilterModel',
  'prefilterBy',
  'fuse',
  'fuseOf',
  'tag',
  'details',
  'unordered',
  'missing',
  'returnDocuments',
  'priority',
  'maxErrors',
  'queryColumn',
  'documentsColumn',
  'allowModelChange',
  'allowCorpusChange',
  'instruction',
])
/** Letters that have room beside a flag, about. */
const ONE_LINE = 56
const ALL = '--help-all'

/** Makes a command and those below it help in this way, and leave what is wrong to main.ts instead of ending the process. */
export function dress(command: Command, args: readonly string[]): void {
  command.exitOverride().showHelpAfterError('(add --help for the options)')
  for (const below of command.commands) dress(below, args)
  // Completion offers everything.
  const all = args.includes(ALL) || args[0] === 'complete'
  if (!all) command.configureHelp({ optionDescription: inBrief })
  const later = command.options.filter((option) => isLater(option.attributeName(), command.name()))
  if (later.length === 0) return
  if (!all) {
    for (const option of later) option.hideHelp()
    command.addHelpText('after', `\n${later.length} more options: ${ALL}`)
  }
  command.option(ALL, 'every option, with defaults and variables')
  command.on('option:help-all', () => command.help())
}

function isLater(name: string, command: string): boolean {
  if (!(name in OPTIONS)) return LATER.has(name)
  return !FIRST.has(name) && !(ABOUT_WORKERS.has(command) && FIRST_OF_WORKERS.has(name))
}

/** A description up to where it goes into detail. */
function inBrief(option: Option): string {
  const [clause = ''] = option.description.split(/(?<!")[;:] | \(/)
  const brief = clause.length > ONE_LINE ? (clause.split(', ')[0] ?? '') : clause
  // Of those in the table the variable stands there, too, and both only in full.
  const fallback = option.attributeName() in OPTIONS ? undefined : /\(default: [^)]*\)/.exec(option.description)?.[0]
  const more = new Help().optionDescription(Object.assign(Object.create(option), { description: '' }))
  return [brief, fallback, more].filter(Boolean).join(' ')
}
