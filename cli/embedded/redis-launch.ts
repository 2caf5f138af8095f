/**
 * How a private Redis can be started here, tried in this order: a `redis-server` or `valkey-server` that is installed,
 * Docker, Debian's package. RANKMILL_EMBEDDED_REDIS names those allowed (`server,docker,package`);
 * RANKMILL_REDIS_FOLDERS replaces the folders that are searched for a server, RANKMILL_REDIS_IMAGE the container's image.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { RankmillError } from '../../shared/errors.js'
import { checkServer } from '../../shared/redis/connection.js'
import { packageServer } from './redis-package.js'
import type { Server } from './redis-program.js'

/**
 * A command that runs Redis in the foreground. Where it listens comes after its arguments, and what is secret on its standard
 * input; for a container `{port}` in the arguments stands for the port that is made its own.
 */
export interface Launch {
  readonly command: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** The container's name, where it is one. */
  readonly container?: string
  readonly description: string
}

export interface LaunchOptions {
  readonly dataDir: string
  readonly env: NodeJS.ProcessEnv
  readonly log: (line: string) => void
}

/** What a way of starting Redis gives, or why it gives nothing. */
type Attempt = { readonly launch: Launch } | { readonly why: string }

const PROGRAMS = ['redis-server', 'valkey-server']
/** Often missing from the PATH of services and editors. */
const MORE_FOLDERS = ['/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']
const DEFAULT_IMAGE = 'redis:7'
const DOCKER_INFO_MS = 5000

const WAYS: Readonly<Record<string, (options: LaunchOptions) => Promise<Attempt>>> = {
  server: installedServer,
  docker: container,
  package: debianPackage,
}

const run = promisify(execFile)

/** @throws RankmillError `redis_unavailable`, saying what was tried and what to install */
export async function findLaunch(options: LaunchOptions): Promise<Launch> {
  const allowed = options.env['RANKMILL_EMBEDDED_REDIS']?.split(',') ?? Object.keys(WAYS)
  const reasons: string[] = []
  for (const [name, way] of Object.entries(WAYS)) {
    if (!allowed.includes(name)) continue
    const attempt = await way(options)
    if ('launch' in attempt) return attempt.launch
    reasons.push(attempt.why)
  }
  throw new RankmillError(
    'redis_unavailable',
    `no Redis was found, and none could be started: REDIS_URL is not set; ${reasons.join('; ')}. ` +
      'Install redis-server or valkey-server, or start Docker, or set REDIS_URL.',
  )
}

async function installedServer({ dataDir, env }: LaunchOptions): Promise<Attempt> {
  const own = env['RANKMILL_REDIS_FOLDERS']
  const folders = own === undefined ? [...(env['PATH'] ?? '').split(delimiter), ...MORE_FOLDERS] : own.split(delimiter)
  const refused: string[] = []
  for (const program of PROGRAMS) {
    for (const folder of folders) {
      const path = join(folder, program)
      if (folder === '' || refused.some((line) => line.startsWith(`${path} `)) || !isProgram(path)) continue
      const version = await versionOf(path, {})
      const why = version === undefined ? 'it does not run' : whyUnfit(version)
      if (version !== undefined && why === undefined) return { launch: launchOf({ path, version, env: {} }, dataDir) }
      refused.push(`${path} is of no use: ${why}`)
    }
  }
  return { why: refused.length > 0 ? refused.join('; ') : 'no redis-server or valkey-server is installed' }
}

async function container({ dataDir, env }: LaunchOptions): Promise<Attempt> {
  try {
    const { stdout } = await run('docker', ['info', '--format', '{{.ServerVersion}}'], { env, timeout: DOCKER_INFO_MS })
    if (stdout.trim() === '') return { why: 'Docker does not answer' }
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    return { why: missing ? 'Docker is not installed' : 'Docker does not answer' }
  }
  const image = env['RANKMILL_REDIS_IMAGE'] ?? DEFAULT_IMAGE
  try {
    await run('docker', ['image', 'inspect', image], { env })
  } catch {
    try {
      await run('docker', ['pull', '--quiet', image], { env })
    } catch (error) {
      return { why: `Docker has no image ${image} and cannot pull it (${lastLine(error)})` }
    }
  }
  const name = `rankmill-redis-${createHash('sha256').update(dataDir).digest('hex').slice(0, 12)}`
  // The data stay the user's own files.
  const user = process.getuid && process.getgid ? ['--user', `${process.getuid()}:${process.getgid()}`] : []
  const args = [
    'run',
    '--rm',
    '--interactive',
    '--name',
    name,
    '--publish',
    '127.0.0.1:{port}:6379',
    '--volume',
    `${dataDir}:/data`,
    ...user,
  ]
  const server = ['redis-server', '--dir', '/data', ...SETTINGS]
  const launch = {
    command: 'docker',
    args: [...args, image, ...server],
    env: {},
    container: name,
    description: `${image} in Docker`,
  }
  return { launch }
}

async function debianPackage({ dataDir, env, log }: LaunchOptions): Promise<Attempt> {
  try {
    const found = await packageServer({ env, log })
    if (typeof found === 'string') return { why: found }
    const version = await versionOf(found.path, found.env)
    if (version === undefined) return { why: `Debian's package redis-server does not run (${found.path})` }
    return { launch: launchOf({ ...found, version }, dataDir) }
  } catch (error) {
    return { why: `Debian's package redis-server could not be had (${lastLine(error)})` }
  }
}

/** Every accepted write survives a killed server; a machine that loses power loses the last second. */
const SETTINGS = ['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', '', '--maxmemory-policy', 'noeviction']

function launchOf({ path, version, env, origin }: Server, dataDir: string): Launch {
  const program = path.split('/').at(-1)
  return {
    command: path,
    args: ['--dir', dataDir, ...SETTINGS, '--daemonize', 'no', '--logfile', 'redis.log'],
    env,
    description: `${program} ${version}${origin ? ` (${origin})` : ''}`,
  }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** undefined where it does not run. */
async function versionOf(path: string, env: Readonly<Record<string, string>>): Promise<string | undefined> {
  try {
    const { stdout } = await run(path, ['--version'], { env: { ...process.env, ...env } })
    return /v=(\d+\.\d+\.\d+)/.exec(stdout)?.[1]
  } catch {
    return undefined
  }
}

function whyUnfit(version: string): string | undefined {
  try {
    checkServer(`redis_version:${version}`)
    return undefined
  } catch (error) {
    return lastLine(error)
  }
}

function lastLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message?: string }
  return (stderr || message || String(error)).trim().split('\n').at(-1) ?? ''
}
