/**
 * Makes a checkout ready to run: installs packages when package-lock.json says so, compiles when sources are newer than
 * dist. Plain Node without dependencies, since nothing is installed yet. Where nothing is to be done it costs a few
 * milliseconds.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { locked } from './lock.mjs'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

const MODULES = join(ROOT, 'node_modules')
/** Hash of the lockfile that node_modules was installed from. */
const INSTALLED = join(MODULES, '.rankmill-lockfile-hash')
const DIST = join(ROOT, 'dist')
/** Its time of change is when the last good build began. */
const BUILT = join(DIST, '.built')

/** Installs and builds what is missing or out of date, one line each on standard error. */
export async function prepare() {
  checkNode()
  if (isInstalled() && isBuilt()) return
  await locked(join(ROOT, '.cache', 'prepare.lock'), install, (pid) =>
    note(`waiting for process ${pid}, which installs or builds`),
  )
}

async function install() {
  if (!isInstalled()) {
    const { command, args } = npm()
    await step('installing packages (npm ci)', 'installed packages (npm ci)', command, [
      ...args,
      'ci',
      '--include=dev',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
    ])
    writeFileSync(INSTALLED, lockfileHash())
  }
  if (!isBuilt()) {
    const startedAt = new Date()
    await step('compiling (tsc)', 'built (tsc)', process.execPath, [
      join(MODULES, 'typescript', 'bin', 'tsc'),
      '-p',
      'tsconfig.json',
    ])
    removeOrphans(DIST)
    mkdirSync(DIST, { recursive: true })
    writeFileSync(BUILT, '')
    utimesSync(BUILT, startedAt, startedAt)
  }
}

export function note(line) {
  process.stderr.write(`rankmill: ${line}\n`)
}

function checkNode() {
  const { engines } = readJson(join(ROOT, 'package.json'))
  const minimum = engines.node.replace(/[^\d.]/g, '')
  const [a, b] = [process.versions.node, minimum].map((version) => version.split('.').map(Number))
  if (a[0] > b[0] || (a[0] === b[0] && a[1] >= (b[1] ?? 0))) return
  note(`Node ${process.versions.node} is too old: at least ${minimum} is needed (https://nodejs.org)`)
  process.exit(2)
}

function lockfileHash() {
  return createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex')
}

function isInstalled() {
  const hash = lockfileHash()
  try {
    if (readFileSync(INSTALLED, 'utf8') === hash) return true
  } catch {
    // Never installed, or by npm itself.
  }
  if (!npmInstalledTheSame()) return false
  writeFileSync(INSTALLED, hash)
  return true
}

/** Whether somebody ran `npm ci` or `npm install` by hand: npm keeps what it installed in a lockfile of its own. */
function npmInstalledTheSame() {
  const npmsOwn = join(MODULES, '.package-lock.json')
  if (!existsSync(npmsOwn)) return false
  const wanted = readJson(join(ROOT, 'package-lock.json')).packages
  const present = readJson(npmsOwn).packages
  const same = (path) =>
    present[path]?.version === wanted[path]?.version && present[path]?.integrity === wanted[path]?.integrity
  // Optional packages are those of other platforms, too.
  const missing = Object.keys(wanted).some(
    (path) => path !== '' && !wanted[path].optional && !wanted[path].devOptional && !present[path],
  )
  return !missing && Object.keys(present).every(same)
}

function isBuilt() {
  const built = statSync(BUILT, { throwIfNoEntry: false })?.mtimeMs
  if (built === undefined) return false
  const { include } = readJson(join(ROOT, 'tsconfig.json'))
  const watched = ['tsconfig.json', 'package-lock.json'].map((file) => join(ROOT, file))
  if (watched.some((file) => statSync(file).mtimeMs >= built)) return false
  return !include.some((folder) => hasNewer(join(ROOT, folder), built))
}

/** Folders count, since their time of change tells of deleted files. */
function hasNewer(folder, time) {
  const folderTime = statSync(folder, { throwIfNoEntry: false })?.mtimeMs
  if (folderTime === undefined) return false
  if (folderTime >= time) return true
  return readdirSync(folder, { withFileTypes: true }).some((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return entry.name !== 'node_modules' && hasNewer(path, time)
    return entry.name.endsWith('.ts') && statSync(path).mtimeMs >= time
  })
}

/** The compiler leaves the output of deleted sources behind, and a deleted test would run on. */
function removeOrphans(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) removeOrphans(path)
    const [, base] = /^(.*?)(\.d\.ts|\.js|\.js\.map)$/.exec(path) ?? []
    if (base !== undefined && !existsSync(`${join(ROOT, base.slice(DIST.length))}.ts`)) rmSync(path)
  }
}

/** Under `npm run`, the very npm that runs; otherwise the one that came with this Node, else that of the PATH. */
function npm() {
  const running = process.env.npm_execpath
  if (running?.endsWith('npm-cli.js')) return { command: process.execPath, args: [running] }
  const beside = join(dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js')
  if (existsSync(beside)) return { command: process.execPath, args: [beside] }
  return { command: 'npm', args: [] }
}

/** What takes longer than this says so, and again after as long. */
const PATIENCE_MS = 5000

/** Runs a command quietly; what it said is shown where it fails, and then this process ends. */
async function step(doing, done, command, args) {
  const startedAt = Date.now()
  const elapsed = () => Math.round((Date.now() - startedAt) / 1000)
  const alive = setInterval(() => note(`${doing} … ${elapsed()} s`), PATIENCE_MS)
  // Standard output carries results only.
  const child = spawn(command, args, {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    shell: process.platform === 'win32',
  })
  const said = []
  child.stdout.on('data', (chunk) => said.push(chunk))
  child.stderr.on('data', (chunk) => said.push(chunk))
  const code = await new Promise((resolve) => {
    child.on('error', (error) => {
      said.push(Buffer.from(`${error.message}\n`))
      resolve(127)
    })
    child.on('close', (exitCode, signal) => resolve(exitCode ?? signal))
  })
  clearInterval(alive)
  const seconds = ((Date.now() - startedAt) / 1000).toFixed(1)
  if (code === 0) return note(`${done} in ${seconds} s`)
  process.stderr.write(Buffer.concat(said))
  note(`failed: ${[command, ...args].join(' ')} (${code}) after ${seconds} s`)
  throw new PrepareError()
}

class PrepareError extends Error {}

/** Runs `main` after `prepare`; a failed preparation has been described already and only sets the exit code. */
export async function prepared(main) {
  try {
    await prepare()
  } catch (error) {
    if (!(error instanceof PrepareError)) throw error
    process.exitCode = 2
    return
  }
  await main()
}

function readJson(file) {
  return JSON.parse(readFileSync(file, 'utf8'))
}
