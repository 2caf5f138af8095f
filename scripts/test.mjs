/**
 * `npm test`: installs and builds what is missing, finds or starts Redis, then runs vitest over the compiled tests with
 * the arguments passed on (`npm test -- tokenize`). The last line is `N passed, N failed, N skipped`.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { note, prepared, ROOT } from './prepare.mjs'

const REPORTER = join(ROOT, 'scripts', 'test-reporter.mjs')
const VITEST = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs')

await prepared(main)

async function main() {
  const redis = await testRedis()
  try {
    const { counts, code } = await runVitest(process.argv.slice(2), redis)
    await redis.stop()
    console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
    process.exitCode = code
  } finally {
    await redis.stop()
  }
}

/** The user's Redis is only written to under prefixes of the tests' own; a private one is emptied first. */
async function testRedis() {
  const { findOrStartRedis } = await import('../dist/cli/embedded/redis.js')
  const named = process.env.REDIS_URL || process.env.RANKMILL_REDIS
  const dataDir = join(ROOT, '.rankmill', 'test-redis')
  const redis = await findOrStartRedis({ ...(named ? { url: named } : {}), dataDir, log: note })
  note(redis.description)
  if (redis.started) {
    const { Redis } = await import('ioredis')
    const connection = new Redis(redis.url)
    await connection.flushall()
    connection.disconnect()
  }
  return redis
}

async function runVitest(args, redis) {
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  const folder = mkdtempSync(join(ROOT, '.cache', 'test-run-'))
  const countsFile = join(folder, 'counts.json')
  const { RANKMILL_REDIS, ...env } = process.env
  const child = spawn(process.execPath, [VITEST, 'run', ...reporters(args), ...args.map(compiled)], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...env, REDIS_URL: redis.url, RANKMILL_TEST_COUNTS: countsFile },
  })
  // Ctrl-C reaches vitest as well; this process stays to stop Redis.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  try {
    const code = await new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (exitCode, signal) => resolve(signal ? 130 : exitCode))
    })
    const counts = existsSync(countsFile) ? JSON.parse(readFileSync(countsFile, 'utf8')) : undefined
    // A run that ended before it could count is no success.
    return counts ? { counts, code } : { counts: { passed: 0, failed: 1, skipped: 0 }, code: code || 1 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function reporters(args) {
  const own = args.some((arg) => arg.startsWith('--reporter'))
  return [...(own ? [] : ['--reporter=default']), `--reporter=${REPORTER}`]
}

/** A test may be named by its source. */
function compiled(arg) {
  return arg.startsWith('-') ? arg : arg.replace(/^\.\//, '').replace(/\.ts$/, '.js')
}
