/** `rankmill keys`: API keys, made once, shown once. */
import { Command, InvalidArgumentError, Option } from 'commander'
import { type ApiKey, ApiKeys, SCOPES, type Scope } from '../../server/keys/api-keys.js'
import { RankmillError } from '../../shared/errors.js'
import { serverKeysOf } from '../../shared/protocol/server-keys.js'
import { connectProducer, reaching } from '../../shared/redis/connection.js'
import { note } from '../exit.js'
import { addOptions, optionsOf } from '../options.js'
import { numberArgument } from '../strategy-flags.js'
import { plainTable } from '../table.js'

interface CreateFlags {
  name?: string
  scope: Scope[]
  expires?: number
  requestsPerMinute: number
  pairsPerMinute: number
  queuedPairs: number
  priority: number
  json?: true
}

const DAY_MS = 86_400_000

export function keysCommand(): Command {
  const command = new Command('keys').description('API keys of `rankmill serve`: make, list, revoke.')
  command.addCommand(createCommand()).addCommand(listCommand()).addCommand(revokeCommand())
  return command
}

function createCommand(): Command {
  const limit = (flag: string, help: string) =>
    new Option(flag, `${help}; 0: no limit`).argParser(numberArgument(0)).default(0)
  const command = new Command('create')
    .description('Make a key and print it, once: only a hash of it is kept.')
    .option('--name <text>', 'what it is for')
    .addOption(
      new Option('--scope <scopes>', `what it may do, divided by commas: ${SCOPES.join(', ')}`)
        .argParser(scopesArgument)
        .default(['submit', 'read'], 'submit,read'),
    )
    .addOption(new Option('--expires <days>', 'days until it ends (default: never)').argParser(numberArgument(1)))
    .addOption(limit('--requests-per-minute <n>', 'requests a minute'))
    .addOption(limit('--pairs-per-minute <n>', 'pairs a minute'))
    .addOption(limit('--queued-pairs <n>', 'pairs under way at once'))
    .addOption(
      new Option('--priority <n>', 'added to the priority of its requests: from 500 on they are bulk work')
        .argParser(numberArgument(0))
        .default(0),
    )
    .option('--json', 'print the key with its id and the secret of its webhooks')
    .action(async () => {
      const flags = command.opts<CreateFlags>()
      if (flags.priority > 999) {
        throw new RankmillError('invalid_configuration', `--priority: must be at most 999, got ${flags.priority}`)
      }
      const { key, record } = await withKeys(command, (keys) =>
        keys.create({
          name: flags.name ?? '',
          scopes: flags.scope,
          expiresAt: flags.expires === undefined ? null : Date.now() + flags.expires * DAY_MS,
          requestsPerMinute: flags.requestsPerMinute,
          pairsPerMinute: flags.pairsPerMinute,
          queuedPairs: flags.queuedPairs,
          priority: flags.priority,
        }),
      )
      if (flags.json) {
        process.stdout.write(`${JSON.stringify({ id: record.id, key, webhook_secret: record.webhookSecret })}\n`)
        return
      }
      process.stdout.write(`${key}\n`)
      note(`rankmill: key ${record.id} may ${record.scopes.join(', ')}; it cannot be shown again`)
      note(`rankmill: its webhooks are signed with ${record.webhookSecret}`)
    })
  return withRedis(command)
}

function listCommand(): Command {
  const command = new Command('ls')
    .description('Every key: what it may do, when it ends, when it was used.')
    .option('--json', 'one JSON object a line')
    .action(async () => {
      const listed = await withKeys(command, (keys) => keys.list())
      if (command.opts<{ json?: true }>().json || !process.stdout.isTTY) {
        for (const key of listed) process.stdout.write(`${JSON.stringify(shown(key))}\n`)
        return
      }
      const table = plainTable(['id', 'name', 'scopes', 'created', 'expires', 'last used'])
      for (const key of listed) {
        const { id, name, scopes, created_at, expires_at, last_used_at } = shown(key)
        const minute = (at: string | null) => at?.slice(0, 16).replace('T', ' ') ?? 'never'
        table.push([id, name, scopes.join(', '), minute(created_at), minute(expires_at), minute(last_used_at)])
      }
      process.stdout.write(`${table.toString()}\n`)
    })
  return withRedis(command)
}

function revokeCommand(): Command {
  const command = new Command('revoke')
    .description('End keys at once. What they submitted stays in the queue.')
    .argument('<id...>', 'ids, as `keys ls` shows them')
    .action(async (ids: string[]) => {
      for (const id of ids) {
        if (await withKeys(command, (keys) => keys.revoke(id))) note(`rankmill: key ${id} is revoked`)
        else throw new RankmillError('not_found', `no API key "${id}" is known`, { param: 'id' })
      }
    })
  return withRedis(command)
}

function shown({ id, name, scopes, createdAt, expiresAt, lastUsedAt, ...key }: ApiKey & { lastUsedAt: number | null }) {
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString())
  return {
    id,
    name,
    scopes,
    created_at: time(createdAt),
    expires_at: time(expiresAt),
    last_used_at: time(lastUsedAt),
    requests_per_minute: key.requestsPerMinute,
    pairs_per_minute: key.pairsPerMinute,
    queued_pairs: key.queuedPairs,
    priority: key.priority,
  }
}

async function withKeys<T>(command: Command, use: (keys: ApiKeys) => Promise<T>): Promise<T> {
  const options = optionsOf(command)
  const redis = await connectProducer(options)
  try {
    return await reaching(() => use(new ApiKeys(redis, serverKeysOf(options.prefix, options.queue))))
  } finally {
    redis.disconnect()
  }
}

function withRedis(command: Command): Command {
  return addOptions(command, ['redis', 'prefix', 'commandTimeoutMs', 'logLevel'])
}

function scopesArgument(text: string): Scope[] {
  const scopes = text.split(',').map((scope) => scope.trim())
  const unknown = scopes.find((scope) => !SCOPES.includes(scope as Scope))
  if (unknown !== undefined) throw new InvalidArgumentError(`must be of ${SCOPES.join(', ')}, got "${unknown}".`)
  return scopes as Scope[]
}
