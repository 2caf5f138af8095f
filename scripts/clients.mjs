/**
 * `npm run test:clients` and `test:clients:python`: the clients that people have, installed from their registries into
 * test/clients (or a virtual environment in .cache), against a server and a worker started for them. RANKMILL_TEST_SERVER
 * names one that runs already.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { note, prepared, ROOT } from './prepare.mjs'

const CLIENTS = join(ROOT, 'test', 'clients')
const VENVS = join(ROOT, '.cache')
const MODEL = process.env.RANKMILL_TEST_MODEL ?? 'rankmill-nano'
const isPython = process.argv.includes('--python')
/** Those without large packages of others: a minute instead of five. */
const areFew = process.argv.includes('--few')
const isSchema = process.argv.includes('--schema')
const files = process.argv.slice(2).filter((arg) => !arg.startsWith('--'))

await prepared(main)

async function main() {
  const tests = isSchema ? schemaTests : isPython ? pythonTests : nodeTests
  const server = process.env.RANKMILL_TEST_SERVER
    ? { url: process.env.RANKMILL_TEST_SERVER, stop: () => {} }
    : await start()
  try {
    const env = {
      RANKMILL_TEST_SERVER: server.url,
      RANKMILL_TEST_MODEL: MODEL,
      ...(areFew ? { RANKMILL_TEST_FEW: '1' } : {}),
    }
    const command = await tests(server.url)
    process.exitCode = await run(command[0], command.slice(1), { env, cwd: isSchema ? join(ROOT, '.cache') : CLIENTS })
  } finally {
    await server.stop()
  }
}

async function nodeTests() {
  const lock = join(CLIENTS, 'package-lock.json')
  const installed = join(CLIENTS, 'node_modules', '.package-lock.json')
  if (!existsSync(installed) || statSync(lock).mtimeMs > statSync(installed).mtimeMs) {
    note('installing the Node clients into test/clients')
    await must('npm', ['ci', '--no-audit', '--no-fund'], CLIENTS)
  }
  const all = ['rerank.test.mjs', 'openai.test.mjs', 'page.test.mjs'].filter((file) => existsSync(join(CLIENTS, file)))
  return [process.execPath, '--test', '--test-concurrency=1', ...(files.length > 0 ? files : all)]
}

async function pythonTests() {
  const bin = await (areFew
    ? virtualEnvironment('python-clients-few', 'requirements-few.txt')
    : virtualEnvironment('python-clients', 'requirements.txt'))
  return [join(bin, 'python'), join(CLIENTS, 'clients.py'), ...files]
}

/**
 * The OpenAPI document against the server: no 5xx, no answer that its schema does not allow. What the schema cannot say
 * (which models are served, two lists of one length) is refused all the same: that check is left out.
 */
async function schemaTests(url) {
  const bin = await virtualEnvironment('schemathesis', 'schemathesis.txt')
  const checks = ['--checks', 'all', '--exclude-checks', 'positive_data_acceptance']
  const phases = ['--phases', 'examples,coverage,fuzzing', '--max-examples', '20', '--request-timeout', '60']
  return [join(bin, 'schemathesis'), 'run', `${url}/openapi.json`, '--url', url, ...checks, ...phases]
}

/** Where the programs are of a virtual environment with what a file of requirements names. */
async function virtualEnvironment(name, requirements) {
  const folder = join(VENVS, name)
  const wanted = readFileSync(join(CLIENTS, requirements), 'utf8')
  const noted = join(folder, 'requirements.txt')
  if (!existsSync(noted) || readFileSync(noted, 'utf8') !== wanted) {
    note(`installing what test/clients/${requirements} names into .cache/${name}`)
    rmSync(folder, { recursive: true, force: true })
    await must(process.env.RANKMILL_PYTHON ?? 'python3', ['-m', 'venv', folder], ROOT)
    await must(
      join(folder, 'bin', 'python'),
      ['-m', 'pip', 'install', '--quiet', '-r', join(CLIENTS, requirements)],
      ROOT,
    )
    writeFileSync(noted, wanted)
  }
  return join(folder, 'bin')
}

/** A Redis, a worker and a server of their own. */
async function start() {
  const folder = join(ROOT, '.cache', 'clients')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const { findOrStartRedis } = await import('../dist/cli/embedded/redis.js')
  const redis = await findOrStartRedis({ dataDir: join(folder, 'redis'), log: note })
  const prefix = `{clients-${process.pid}}`
  const env = { ...process.env, REDIS_URL: redis.url, RANKMILL_PREFIX: prefix, RANKMILL_LOG_LEVEL: 'warn' }
  const main = join(ROOT, 'dist', 'cli', 'main.js')
  const options = { env, cwd: folder, stdio: ['ignore', 'inherit', 'pipe'] }
  const worker = ['worker', '--model', MODEL, '--metrics-port', '0', '--no-calibrate']
  const children = [worker, ['serve', '--port', '0']].map((args) => spawn(process.execPath, [main, ...args], options))
  const url = await new Promise((resolve, reject) => {
    let said = ''
    children[0].stderr.on('data', (chunk) => process.stderr.write(chunk))
    children[1].stderr.on('data', (chunk) => {
      process.stderr.write(chunk)
      said += chunk
      const [, found] = /the API is at (\S+),/.exec(said) ?? []
      if (found) resolve(found)
    })
    children[1].once('exit', () => reject(new Error('the server ended before it was ready')))
  })
  const stop = async () => {
    for (const child of children) {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await gone
    }
    await redis.stop()
  }
  try {
    while (!(await fetch(`${url}/readyz`)).ok) await new Promise((resolve) => setTimeout(resolve, 100))
  } catch (error) {
    await stop()
    throw error
  }
  return { url, stop }
}

async function must(command, args, cwd) {
  const code = await run(command, args, { cwd })
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${code}`)
}

function run(command, args, { cwd, env = {} }) {
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: 'inherit' })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}
