/** Turns the table of options into command-line flags, and what was given back into filled options. */
import { type Command, Option } from 'commander'
import { envOf, flagOf, OPTIONS, type OptionName, type Options, resolveOptions } from '../shared/options.js'

const REDIS_OPTIONS: readonly OptionName[] = ['redis', 'prefix', 'queue', 'logLevel']
export const PRODUCER_OPTIONS: readonly OptionName[] = [...REDIS_OPTIONS, ...namesOf('producer'), 'commandTimeoutMs']
export const BATCH_OPTIONS: readonly OptionName[] = namesOf('batch')
export const SERVER_OPTIONS: readonly OptionName[] = [...PRODUCER_OPTIONS, ...BATCH_OPTIONS, ...namesOf('server')]
export const WORKER_OPTIONS: readonly OptionName[] = [...REDIS_OPTIONS, ...namesOf('worker'), ...namesOf('monitoring')]

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
    const help = negated ? `do not ${spec.help}` : spec.help
    command.addOption(new Option(flags, `${help} (default: ${JSON.stringify(spec.default)}, env: ${env})`))
  }
  return command
}

/** The filled options of a command: flags, then environment, then defaults. */
export function optionsOf(command: Command, override: Partial<Record<OptionName, unknown>> = {}): Options {
  const given: Record<string, unknown> = {}
  for (const name of Object.keys(OPTIONS)) {
    if (command.getOptionValueSource(name) === 'cli') given[name] = command.getOptionValue(name)
  }
  return resolveOptions({ ...given, ...override })
}

/** Options as flags of another `rankmill` process. */
export function asFlags(options: Options, names: readonly OptionName[]): string[] {
  return names.flatMap((name) => {
    const value = options[name]
    if (value === OPTIONS[name].default) return []
    if (typeof value === 'boolean') return [value ? `--${flagOf(name)}` : `--no-${flagOf(name)}`]
    return [`--${flagOf(name)}`, String(value)]
  })
}
