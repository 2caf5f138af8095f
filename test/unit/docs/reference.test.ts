import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { RESULT_OPTIONS } from '../../../shared/options.js'

it('the reference pages say what the code says', () => {
  expect(() => execFileSync(process.execPath, ['scripts/docs.mjs', '--check'], { stdio: 'pipe' })).not.toThrow()
})

it('README names only files, commands and npm scripts that exist', () => {
  const readme = readFileSync('README.md', 'utf8')
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> }
  const npm = [...readme.matchAll(/npm run ([\w:-]+)/g)].map(([, name]) => name)
  for (const name of npm) expect(Object.keys(scripts)).toContain(name)
  const links = [...readme.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path]) => path)
  for (const path of links) expect(() => readFileSync(path ?? ''), path).not.toThrow(/ENOENT/)
})

it('docs/batches.md names the options that belong to a run', () => {
  const page = readFileSync('docs/batches.md', 'utf8')
  const listed = /options that shape results[^:]*: ([^;]+);/.exec(page)?.[1] ?? ''
  const names = [...listed.matchAll(/`(\w+)`/g)].map(([, name]) => name)
  expect(names.sort()).toEqual([...RESULT_OPTIONS].sort())
})

it.each(['docs/batches.md', 'docs/guarantees.md'])('%s names tests that exist', (file) => {
  const rows = readFileSync(file, 'utf8').split('\n')
  const promises = rows.filter((row) => /^\|.*\.test\.ts: `/.test(row))
  expect(promises.length).toBeGreaterThan(10)
  for (const promise of promises) {
    const tests = promise.split('|').at(-2) ?? ''
    for (const [, file, named] of tests.matchAll(/([\w-]+\.test\.ts): ((?:`[^`]+`(?:, )?)+)/g)) {
      const source = readFileSync(`test/integration/${file}`, 'utf8')
      for (const [, name] of (named ?? '').matchAll(/`([^`]+)`/g)) expect(source).toContain(name)
    }
  }
})
