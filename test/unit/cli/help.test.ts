import { execFileSync, spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

const MAIN = resolve('dist/cli/main.js')
const rankmill = (...args: string[]) => execFileSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })

describe('--help', () => {
  it.each([['rerank'], ['batch run'], ['batch trec'], ['up'], ['tune']])('of %s fits a screen', (command) => {
    const lines = rankmill(...command.split(' '), '--help')
      .trimEnd()
      .split('\n')
    expect(lines.length).toBeLessThanOrEqual(41)
    expect(lines.filter((line) => line.length > 80)).toEqual([])
    expect(lines.at(-1)).toMatch(/^\d+ more options: --help-all$/)
  })

  it('lists the commands without loading them, and all options when asked', () => {
    expect(rankmill('--help')).toMatch(/Rerank:\n {2}rerank +one query/)
    const all = rankmill('rerank', '--help-all').replace(/\s+/g, ' ')
    expect(all).toContain('(default: 4000000, env: RANKMILL_TOKEN_CACHE_TOKENS)')
    expect(all).toContain('--no-share-identical give each request a job of its own')
    expect(all).not.toMatch(/do not requests|more options/)
  })
})

describe('help', () => {
  it.each([
    [['batch', 'run'], 'Usage: rankmill batch run [options] <inputs...>'],
    [['batch', 'trec', '--help-all'], 'Usage: rankmill batch trec [options] [folder]'],
    [['models', 'add'], 'Usage: rankmill models add'],
    [['rerank'], 'Usage: rankmill rerank'],
    [['rerank', 'more'], 'Usage: rankmill rerank'],
    [['batch'], 'Usage: rankmill batch [options] [command]'],
    [[], 'Usage: rankmill [options] [command]'],
  ])('%j is that of the command', (words, usage) => {
    const [first, ...path] = words.filter((word) => !word.startsWith('-'))
    const said = rankmill('help', ...words)
    expect(said).toContain(usage)
    const flag = words.includes('--help-all') ? '--help-all' : '--help'
    if (words.length !== 2 || words[1] !== 'more') expect(said).toBe(rankmill(...(first ? [first] : []), ...path, flag))
  })

  it.each([[['bach']], [['batch', 'rum']]])('%j names no command', (words) => {
    const { status, stderr } = spawnSync(process.execPath, [MAIN, 'help', ...words], { encoding: 'utf8' })
    expect(stderr).toMatch(/unknown command '\w+'\n\(Did you mean \w+\?\)/)
    expect(status).toBe(2)
  })
})

it('completes commands and flags', () => {
  expect(rankmill('complete', '--', 'rer')).toMatch(/^rerank\t/)
  expect(rankmill('complete', '--', 'rerank', '--casc')).toMatch(/^--cascade\t/)
  expect(rankmill('complete', 'bash')).toMatch(/# bash completion for rankmill/)
})
