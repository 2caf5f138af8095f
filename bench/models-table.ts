/**
 * Scores the folders that test/golden/models/architectures.py, causal.py and public_styles.py made, compares them with Python's, and writes
 * the tables into docs/models.md:
 *
 *     npm run docs:models -- .cache/models-matrix
 */
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { resolveOptions } from '../shared/options.js'
import type { Dtype } from '../shared/protocol/dtype.js'
import { openModel } from '../worker/model/model.js'
import { ListScorer } from '../worker/offline/list-scorer.js'

interface Expected {
  reference: string
  query: string
  documents: string[]
  cells: {
    folder: string
    architecture: string
    tokenizer: string
    saved: string
    scores: Partial<Record<Dtype, number[]>>
    note: string
  }[]
}

/** Folders in the style of those that people publish: public_styles.py. */
interface PublicStyles {
  reference: string
  queries: string[]
  documents: string[]
  /** Of `scores`: the first query with all documents, each other with every fourth. */
  cells: { folder: string; name: string; what: string; scores: number[] | null; note: string }[]
}

const DOC = 'docs/models.md'
const [START, END] = ['<!-- table of models: npm run docs:models -->', '<!-- end of the table -->']
const [CAUSAL, CAUSAL_END] = ['<!-- table of causal models: npm run docs:models -->', '<!-- end of that table -->']
const [PUBLIC, PUBLIC_END] = [
  '<!-- table of public styles: npm run docs:models -->',
  '<!-- end of the second table -->',
]
const DTYPES: readonly Dtype[] = ['fp32', 'fp16', 'int8', 'int4']
/** How far a score may be from Python's. In the others, ONNX Runtime's own versions round apart. */
const TOLERANCE: Readonly<Record<Dtype, number>> = { fp32: 1e-4, fp16: 5e-3, int8: 5e-3, int4: 5e-3 }

async function differenceOf(folder: string, dtype: Dtype, { query, documents }: Expected, wanted: readonly number[]) {
  const options = resolveOptions({
    dtype,
    threads: 1,
    calibrate: false,
    cacheDir: path.join(tmpdir(), 'rankmill-table'),
  })
  const scorer = await ListScorer.open(folder, options, new AbortController().signal)
  try {
    const { scores } = await scorer.score(query, documents)
    return Math.max(...scores.map((score, i) => Math.abs(score - (wanted[i] ?? Number.NaN))))
  } finally {
    await scorer.close()
  }
}

async function cellOf(
  folder: string,
  dtype: Dtype,
  expected: Expected,
  wanted: number[] | undefined,
  note: string,
): Promise<string> {
  if (!wanted && note === '') return '-'
  try {
    if (!wanted) {
      await openModel(folder, {
        dtype,
        device: 'cpu',
        cacheDir: path.join(tmpdir(), 'rankmill-table'),
        allowHub: false,
      })
      process.exitCode = 1
      return `OPENED, where the reference does not load it: ${note}`
    }
    const difference = await differenceOf(folder, dtype, expected, wanted)
    const isEqual = difference <= TOLERANCE[dtype]
    if (!isEqual) process.exitCode = 1
    return `${isEqual ? '' : 'OTHER: '}${difference === 0 ? '0' : difference.toExponential(0)}`
  } catch (error) {
    return `refused: ${(error as Error).message.replaceAll(`${folder}/`, '')}`
  }
}

/** @returns a row's last cell: the greatest difference, or why it is refused */
async function styleOf(folder: string, { queries, documents }: PublicStyles, wanted: readonly number[] | null) {
  const options = resolveOptions({
    dtype: 'fp32',
    threads: 1,
    calibrate: false,
    cacheDir: path.join(tmpdir(), 'rankmill-table'),
  })
  let scorer: ListScorer
  try {
    scorer = await ListScorer.open(folder, options, new AbortController().signal)
  } catch (error) {
    return `refused: ${(error as Error).message.replaceAll(`${folder}/`, '').replaceAll(folder, 'the folder')}`
  }
  try {
    const scores: number[] = []
    for (const [i, query] of queries.entries())
      for (const [j, document] of documents.entries())
        if (i === 0 || j % 4 === 0) scores.push(...(await scorer.score(query, [document])).scores)
    if (!wanted) return 'scored, where the reference does not load it'
    const difference = Math.max(...scores.map((score, i) => Math.abs(score - (wanted[i] ?? Number.NaN))))
    if (scores.length === wanted.length && difference <= TOLERANCE.fp32) return difference.toExponential(0)
    process.exitCode = 1
    return `OTHER: ${difference.toExponential(0)}`
  } finally {
    await scorer.close()
  }
}

async function readExpected<T>(name: string): Promise<T | undefined> {
  const text = await readFile(path.join(root, name), 'utf8').catch(() => undefined)
  return text === undefined ? undefined : (JSON.parse(text) as T)
}

/** Puts a table between its two lines of the document. */
async function place(start: string, end: string, table: readonly string[]): Promise<void> {
  const doc = await readFile(DOC, 'utf8')
  const [before, rest] = doc.split(start)
  const after = rest?.split(end)[1]
  if (before === undefined || after === undefined)
    throw new Error(`${DOC} lacks the lines that the table stands between`)
  await writeFile(DOC, `${before}${start}\n\n${table.join('\n')}\n\n${end}${after}`)
}

async function rowsOf(expected: Expected): Promise<string[]> {
  const rows: string[] = []
  for (const { folder, architecture, tokenizer, saved, scores, note } of expected.cells) {
    const cells: string[] = []
    for (const dtype of DTYPES) {
      const isOnly = note === '' || dtype === 'fp32'
      cells.push(isOnly ? await cellOf(path.join(root, folder), dtype, expected, scores[dtype], note) : '-')
    }
    const row = `| ${[architecture, tokenizer, saved, ...cells].join(' | ')} |`
    console.log(row)
    rows.push(row)
  }
  return rows
}

async function architectures(expected: Expected, start: string, end: string): Promise<void> {
  const rows = await rowsOf(expected)
  await place(start, end, [
    `Reference: ${expected.reference}.`,
    '',
    `| architecture | tokeniser | saved by | ${DTYPES.join(' | ')} |`,
    `| --- | --- | --- |${DTYPES.map(() => ' --- |').join('')}`,
    ...rows,
  ])
}

async function publicStyles(expected: PublicStyles): Promise<void> {
  const rows: string[] = []
  for (const { folder, name, what, scores, note } of expected.cells) {
    const ours = (await styleOf(path.join(root, folder), expected, scores)).replaceAll('|', '\\|')
    const theirs = scores ? `${scores.length} pairs` : `does not load it (${note.split(':')[0]})`
    const row = `| ${[name, what, theirs, ours].join(' | ')} |`
    console.log(row)
    rows.push(row)
  }
  await place(PUBLIC, PUBLIC_END, [
    `Reference: ${expected.reference}.`,
    '',
    '| in the style of | what is odd about it | the reference | greatest difference of a score |',
    '| --- | --- | --- | --- |',
    ...rows,
  ])
}

const root = path.resolve(process.argv[2] ?? '.cache/models-matrix')
const encoders = await readExpected<Expected>('expected.json')
const causal = await readExpected<Expected>('causal.json')
const styles = await readExpected<PublicStyles>('public.json')
if (!encoders && !causal && !styles) throw new Error(`${root} has none of expected.json, causal.json and public.json`)
if (encoders) await architectures(encoders, START, END)
if (causal) await architectures(causal, CAUSAL, CAUSAL_END)
if (styles) await publicStyles(styles)
