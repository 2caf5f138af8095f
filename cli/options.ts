/** Turns the table of options into command-line flags, and what was given back into filled options. */
import { type Command, Option } from 'commander'
import { envOf, flagOf, OPTIONS, type OptionName, type Options, resolveOptions } from '../shared/options.js'
import { findUpNote } from '../shared/up-note.js'

const REDIS_OPTIONS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'shards', 'logLevel']
export const PRODUCER_OPTIONS: readonly OptionName[] = [...REDIS_OPTIONS, ...namesOf('producer'), 'commandTimeoutMs']
export const BATCH_OPTIONS: readonly OptionName[] = namesOf('batch')
export const SERVER_OPTIONS: readonly OptionName[] = [...PRODUCER_OPTIONS, ...BATCH_OPTIONS, ...namesOf('server')]
export const WORKER_OPTIONS: readonly OptionName[] = [...REDIS_OPTIONS, ...namesOf('worker'), ...namesOf('monitoring')]

const HEADINGS = {
  redis: 'Redis:',
  producer: 'Requests:',
  batch: 'Batch runs:',
  worker: 'Workers:',
  models: 'Quantising:',
  server: 'API server:',
  monitoring: 'Metrics, health and logs:',
} as const

function namesOf(group: string): OptionName[] {
  return (Object.keys(OPTIONS) as OptionName[]).filter((name) => OPTIONS[name].group === group)
}

/** Adds flags; each line of help ends with its default and its environment variable. */
export function addOptions(command: Command, names: readonly OptionName[]): Command {
  for (const name of new Set(names)) {
    const spec = OPTIONS[name]
    const negated = spec.default === true
    const flags = `--${negated ? 'no-' : ''}${flagOf(name)}${spec.value ? ` ${spec.value}` : ''}`
    const env = [envOf(name), ...('env' in spec ? [spec.env] : [])].join(' or ')
    const help = 'negated' in spec ? spec.negated : spec.help
    const text = `${help} (default: ${negated ? 'off' : JSON.stringify(spec.default)}, env: ${env})`
    command.addOption(new Option(flags, text).helpGroup(HEADINGS[spec.group]))
  }
  return command
}

/** The filled options of a command: flags, then environment, then defaults. */
export function optionsOf(command: Command, override: Partial<Record<OptionName, unknown>> = {}): Options {
  const given: Record<string, unknown> = {}
  for (const name of Object.keys(OPTIONS)) {
    if (command.getOptionValueSource(name) === 'cli') given[name] = command.getOptionValue(name)
  }
  return resolveOptions({ ...given, ...override }, process.env, findUpNote)
}

/** Whether a flag or the environment gives an option, rather than its default. */
export function isNamed(command: Command, name: OptionName): boolean {
  return command.getOptionValueSource(name) === 'cli' || Boolean(process.env[envOf(name)])
}

/** Options as the environment of another `rankmill` process: all of them, so that it takes none from elsewhere. */
export function asEnvironment(options: Options): Record<string, string> {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [envOf(name), String(value)]))
}
