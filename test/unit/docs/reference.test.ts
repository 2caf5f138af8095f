import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'

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
