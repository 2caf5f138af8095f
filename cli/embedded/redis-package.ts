/** Debian's redis-server: installed where we are root, else its files unpacked into a cache folder and run from there. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Server } from './redis-program.js'

export interface PackageOptions {
  readonly env: NodeJS.ProcessEnv
  readonly log: (line: string) => void
  /** Default: whether this process is root's. */
  readonly asRoot?: boolean
  /** Default: `.cache/redis`. */
  readonly cacheDir?: string
}

type Found = Omit<Server, 'version'>

const INSTALLED = '/usr/bin/redis-server'
/** Debian's way to forbid packages to start services when they are installed. */
const POLICY = '/usr/sbin/policy-rc.d'
const WAIT_FOR_OTHERS = ['-o', 'DPkg::Lock::Timeout=300']
const NO_LOCKS = ['-o', 'Debug::NoLocking=1']
const STEP_MS = 600_000

const run = promisify(execFile)

/** @returns the program, or why there is none */
export async function packageServer(options: PackageOptions): Promise<Found | string> {
  const apt = await succeeds('apt-get', ['--version'], options.env)
  if (!apt) return "Debian's package needs apt-get"
  return (options.asRoot ?? process.getuid?.() === 0) ? install(options) : unpack(options)
}

async function install({ env, log }: PackageOptions): Promise<Found> {
  log("installing Debian's package redis-server")
  const settings = { env: { ...env, DEBIAN_FRONTEND: 'noninteractive' }, timeout: STEP_MS }
  const args = [...WAIT_FOR_OTHERS, 'install', '--yes', '--no-install-recommends', 'redis-server']
  const hadPolicy = existsSync(POLICY)
  if (!hadPolicy) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    try {
      await run('apt-get', args, settings)
    } catch {
      // Fresh machines have no package lists.
      await run('apt-get', [...WAIT_FOR_OTHERS, 'update'], settings)
      await run('apt-get', args, settings)
    }
  } finally {
    if (!hadPolicy) rmSync(POLICY, { force: true })
  }
  // Nor is it to start with the machine: it was wanted here only.
  if (existsSync('/run/systemd/system')) await succeeds('systemctl', ['disable', '--quiet', 'redis-server'], env)
  return { path: INSTALLED, env: {}, origin: 'installed from Debian just now' }
}

async function unpack({ env, log, cacheDir = '.cache/redis' }: PackageOptions): Promise<Found> {
  const cache = resolve(cacheDir)
  const root = join(cache, 'root')
  const path = join(root, 'usr/bin/redis-server')
  if (!existsSync(path)) {
    log(`unpacking Debian's package redis-server into ${cacheDir}`)
    const fresh = join(cache, `new-${process.pid}`)
    try {
      await fetchInto(fresh, cache, env)
      try {
        renameSync(join(fresh, 'root'), root)
      } catch (error) {
        // Another process was faster.
        if (!existsSync(path)) throw error
      }
    } finally {
      rmSync(fresh, { recursive: true, force: true })
    }
  }
  return { path, env: { LD_LIBRARY_PATH: libraryFolders(root).join(delimiter) }, origin: "Debian's package, unpacked" }
}

async function fetchInto(fresh: string, cache: string, env: NodeJS.ProcessEnv): Promise<void> {
  mkdirSync(join(fresh, 'root'), { recursive: true })
  const settings = { cwd: fresh, env, timeout: STEP_MS }
  let own: string[] = []
  let packages = await missingPackages(own, env)
  if (packages.length === 0) {
    // No package lists, and the system's are root's: keep some of our own.
    const lists = join(cache, 'lists')
    mkdirSync(join(lists, 'partial'), { recursive: true })
    own = ['-o', `Dir::State::Lists=${lists}`, '-o', `Dir::Cache=${join(cache, 'apt')}`, '-o', 'APT::Sandbox::User=']
    await run('apt-get', [...NO_LOCKS, ...own, 'update'], settings)
    packages = await missingPackages(own, env)
  }
  await run('apt-get', [...NO_LOCKS, ...own, 'download', ...packages], settings)
  for (const file of readdirSync(fresh)) {
    if (file.endsWith('.deb')) await run('dpkg', ['-x', join(fresh, file), join(fresh, 'root')], settings)
  }
}

/** What an installation would bring: the package and the libraries that this machine lacks; empty where apt cannot say. */
async function missingPackages(own: readonly string[], env: NodeJS.ProcessEnv): Promise<string[]> {
  const args = [
    ...NO_LOCKS,
    ...own,
    '--simulate',
    '--no-install-recommends',
    '--reinstall',
    'install',
    'redis-server',
    'redis-tools',
  ]
  try {
    const { stdout } = await run('apt-get', args, { env, timeout: STEP_MS })
    const names = Array.from(stdout.matchAll(/^Inst (\S+) /gm), (match) => match[1] ?? '')
    // The C library stays the system's own: a second one under the same loader breaks both.
    return names.filter((name) => !/^libc(6|-bin)\b/.test(name))
  } catch {
    return []
  }
}

/** usr/lib/<machine> and lib/<machine>. */
function libraryFolders(root: string): string[] {
  return ['usr/lib', 'lib'].flatMap((folder) => {
    const path = join(root, folder)
    if (!existsSync(path)) return []
    const machines = readdirSync(path, { withFileTypes: true }).filter(
      (entry) => entry.isDirectory() && entry.name.includes('-linux-'),
    )
    return [path, ...machines.map((entry) => join(path, entry.name))]
  })
}

async function succeeds(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<boolean> {
  try {
    await run(command, args, { env })
    return true
  } catch {
    return false
  }
}
