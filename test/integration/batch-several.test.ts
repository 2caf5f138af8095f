/** Several inputs, and outputs that are made of a run's answers: nobody's file is written over, and nothing is done twice. */
import { mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'csv-parse/sync'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openBatch } from '../../producer/batch/batch-file.js'
import { runCommand, type Said } from './command.js'
import { useStage } from './stage.js'

const stage = useStage()
let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rankmill-several-'))
})
afterEach(() => rm(folder, { recursive: true }))

const at = (name: string) => join(folder, name)
const text = (name: string) => readFile(at(name), 'utf8')
const write = (name: string, content: string) => writeFile(at(name), content)

function batch(...args: string[]): Promise<Said> {
  const { redis, prefix } = stage().options()
  const env = { RANKMILL_REDIS: redis, RANKMILL_PREFIX: prefix }
  return runCommand(['batch', 'run', ...args, '--no-embedded'], folder, env)
}

const line = (id: string, documents: unknown = [`one of ${id}`, 'two']) =>
  `${JSON.stringify({ custom_id: id, body: { query: 'which one', documents } })}\n`
const TABLE = 'custom_id,query,documents\na,which,"[""one"",""two""]"\nb,which,"[""two""]"\n'

describe('an output', () => {
  it('is none of the inputs, as a table and in a folder too, and that is found before any work', async () => {
    await mkdir(at('here'))
    await write('in.csv', TABLE)
    await write('first.jsonl', line('a'))
    await write('here/second.jsonl', line('b'))
    const commands = [
      ['in.csv', '-o', 'in.csv'],
      ['first.jsonl', '-o', '.'],
      ['first.jsonl', 'here/second.jsonl', '-o', 'here/'],
      ['first.jsonl', 'here/second.jsonl', '-o', 'here/second.jsonl'],
    ]
    for (const args of commands) {
      expect(await batch(...args)).toMatchObject({ code: 2, stderr: expect.stringContaining('output_exists') })
    }
    expect(await text('in.csv')).toBe(TABLE)
    expect(await text('here/second.jsonl')).toBe(line('b'))
    await expect(stat(at('here/first.jsonl'))).rejects.toThrow('ENOENT')
  })

  it('that is a table which no run made is left alone, unless it is to be written over', async () => {
    await stage().worker()
    await write('in.csv', TABLE)
    await write('out.csv', 'somebody,s\n')
    const { code, stderr } = await batch('in.csv', '-o', 'out.csv')
    expect([code, stderr]).toEqual([2, expect.stringContaining('nothing beside it says that a run wrote them')])
    expect(await text('out.csv')).toBe('somebody,s\n')
    expect(await batch('in.csv', '-o', 'out.csv', '--overwrite')).toMatchObject({ code: 0 })
    expect(parse(await text('out.csv'), { columns: true })).toHaveLength(2)
  })

  it('that is a table is made by the library, too, and once: taken away it is made anew, changed it is left alone', async () => {
    await stage().worker()
    await write('in.csv', TABLE)
    expect(await batch('in.csv', '-o', 'command.csv')).toMatchObject({ code: 0 })
    const files = { input: at('in.csv'), output: at('library.csv') }
    const { redis, prefix } = stage().options()
    const open = () => openBatch({ ...files, options: { redis, prefix } })
    const report = await (await open()).run(stage().client())
    expect(report.status).toBe('finished')
    const made = await text('library.csv')
    expect(made).toBe(await text('command.csv'))

    const { mtimeMs } = await stat(files.output)
    expect((await open()).wasFinished).toBe(true)
    expect((await stat(files.output)).mtimeMs).toBe(mtimeMs)
    await rm(files.output)
    // Both make it, or one finds the other at it.
    const both = await Promise.allSettled([open(), open()])
    for (const one of both) if (one.status === 'rejected') expect(one.reason.code).toBe('output_in_use')
    expect(both.some(({ status }) => status === 'fulfilled')).toBe(true)
    expect(await text('library.csv')).toBe(made)
    await truncate(files.output, made.length - 5)
    await expect(open()).rejects.toMatchObject({ code: 'output_changed' })
    expect(await text('library.csv')).toBe(made.slice(0, -5))
  })
})

describe('a pattern', () => {
  it.each([
    ['*.jsonl', 'all.jsonl'],
    ['**/*.{jsonl,csv}', 'all.csv'],
    ['**/*.jsonl', 'each/'],
    ['**/*', './all.jsonl'],
  ])(
    'that matches the own output, %s to %s, has the same inputs when the command is run again',
    async (pattern, output) => {
      await stage().worker()
      await write('one.jsonl', line('a'))
      await write('two.jsonl', line('b'))
      expect(await batch(pattern, '-o', output)).toMatchObject({ code: 0 })
      for (const again of [[], ['--overwrite']]) {
        expect(await batch(pattern, '-o', output, ...again)).toMatchObject({
          code: 0,
          stderr: expect.stringMatching(output === 'each/' ? /1 request/ : /2 requests/),
        })
      }
    },
  )

  it('still finds a file that no run wrote, which is then no output', async () => {
    await write('one.jsonl', line('a'))
    await write('two.jsonl', line('b'))
    for (const flags of [[], ['--overwrite']]) {
      const { code, stderr } = await batch('*.jsonl', '-o', 'two.jsonl', ...flags)
      expect([code, stderr]).toEqual([2, expect.stringContaining('two.jsonl: is an input as well')])
    }
    expect(await text('two.jsonl')).toBe(line('b'))
  })
})

describe('several inputs', () => {
  it('are refused where one of them is another, or goes by other columns, saying what was compared', async () => {
    await stage().worker()
    await write('one.jsonl', line('a'))
    await write('two.csv', TABLE.replaceAll('\na', '\nc').replace('\nb', '\nd'))
    const args = ['one.jsonl', 'two.csv', '-o', 'out.jsonl']
    expect(await batch(...args)).toMatchObject({ code: 0 })
    const columns = await batch(...args, '--query-column', 'custom_id')
    expect([columns.code, columns.stderr]).toEqual([
      2,
      expect.stringContaining('queryColumn was "query" and is "custom_id"'),
    ])
    await write('two.csv', TABLE)
    const { code, stderr } = await batch(...args)
    expect([code, stderr]).toEqual([2, expect.stringMatching(/output_exists: .*another input .*one\.jsonl and 1 more/)])
  })

  it('run again what failed, and the table has its answers', async () => {
    await stage().worker()
    await write('one.jsonl', line('a') + line('b', { corpus: 'late', ids: ['p'] }))
    await write('two.jsonl', line('c'))
    const args = ['one.jsonl', 'two.jsonl', '-o', 'out.csv']
    expect(await batch(...args)).toMatchObject({ code: 1 })
    const before: Record<string, string>[] = parse(await text('out.csv'), { columns: true })
    expect(before.map(({ custom_id, error }) => [custom_id, error !== ''])).toEqual([
      ['a', false],
      ['b', true],
      ['c', false],
    ])
    await stage()
      .client()
      .putCorpus('late', [{ id: 'p', text: 'came later' }])
    expect(await batch(...args, '--retry-failed')).toMatchObject({ code: 0 })
    const after: Record<string, string>[] = parse(await text('out.csv'), { columns: true })
    expect(after.map(({ error }) => error)).toEqual(['', '', ''])
    expect([after[0], after[2]]).toEqual([before[0], before[2]])
  })

  it('that were all done need nothing running, and their reports stay', async () => {
    await stage().worker()
    await write('one.jsonl', line('a'))
    await write('two.jsonl', line('b'))
    const args = ['one.jsonl', 'two.jsonl', '-o', 'each/']
    expect(await batch(...args)).toMatchObject({ code: 0 })
    const reports = () => Promise.all(['each/one.jsonl', 'each/two.jsonl'].map((name) => text(`${name}.report.json`)))
    const before = await reports()
    expect(await batch(...args, '--redis', 'redis://127.0.0.1:1')).toMatchObject({ code: 0 })
    expect(await reports()).toEqual(before)
  })
})
