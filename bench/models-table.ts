/**
 * Scores the folders that test/golden/models/architectures.py made, compares them with Python's, and writes the table into docs/models.md:
 *
 *     npm run docs:models -- .cache/models-matrix
 */
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { resolveOptions } from '../shared/options.js'
import type { Dtype } from '../shared/protocol/dtype.js'
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

const DOC = 'docs/models.md'
const [START, END] = ['<!-- table of models: npm run docs:models -->', '<!-- end of the table -->']
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

async function cellOf(folder: string, dtype: Dtype, expected: Expected, wanted: number[] | undefined): Promise<string> {
  if (!wanted) return '-'
  try {
    const difference = await differenceOf(folder, dtype, expected, wanted)
    const isEqual = difference <= TOLERANCE[dtype]
    if (!isEqual) process.exitCode = 1
    return `${isEqual ? '' : 'OTHER: '}${difference === 0 ? '0' : difference.toExponential(0)}`
  } catch (error) {
    return `refused: ${(error as Error).message.replaceAll(`${folder}/`, '')}`
  }
}

const root = path.resolve(process.argv[2] ?? '.cache/models-matrix')
const expected = JSON.parse(await readFile(path.join(root, 'expected.json'), 'utf8')) as Expected
const rows: string[] = []
for (const { folder, architecture, tokenizer, saved, scores, note } of expected.cells) {
  const cells: string[] = []
  for (const dtype of DTYPES) {
    cells.push(
      note === '' ? await cellOf(path.join(root, folder), dtype, expected, scores[dtype]) : `the reference: ${note}`,
    )
  }
  const row = `| ${[architecture, tokenizer, saved, ...cells].join(' | ')} |`
  console.log(row)
  rows.push(row)
}
const table = [
  `Reference: ${expected.reference}.`,
  '',
  `| architecture | tokeniser | saved by | ${DTYPES.join(' | ')} |`,
  `| --- | --- | --- |${DTYPES.map(() => ' --- |').join('')}`,
  ...rows,
]
const doc = await readFile(DOC, 'utf8')
const [before, rest] = doc.split(START)
const after = rest?.split(END)[1]
if (before === undefined || after === undefined) throw new Error(`${DOC} lacks the lines that the table stands between`)
await writeFile(DOC, `${before}${START}\n\n${table.join('\n')}\n\n${END}${after}`)
