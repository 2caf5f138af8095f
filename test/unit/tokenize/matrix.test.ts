/**
 * Tokenisers of every kind that tokenizer.json and the classes of `transformers` know, against the ids of the reference.
 * `RANKMILL_TOKENIZER_MATRIX` names a larger matrix than the one that is kept (test/golden/tokenize/matrix.py).
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, expect, it } from 'vitest'
import { PairEncoder } from '../../../worker/tokenize/pair-encoder.js'
import { loadTokenizer, type Tokenizer } from '../../../worker/tokenize/tokenizer.js'

interface MatrixFile {
  name: string
  model: string
  definition: Record<string, unknown>
  settings: object
  config: object
  special: object | null
  texts: [text: string, ids: number[] | null][]
  pairs: [first: string, second: string, encoded: [ids: number[], secondStart: number] | null][]
}

const MATRIX = process.env.RANKMILL_TOKENIZER_MATRIX ?? path.resolve('test/golden/tokenize/matrix.json.gz')
const matrix = JSON.parse(gunzipSync(await readFile(MATRIX)).toString('utf8')) as {
  /** `charsmap 0` in a definition stands for the first of them. */
  charsmaps: string[]
  models: Record<string, object>
  files: MatrixFile[]
}

const folders: string[] = []
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))))

async function laidOut({ model, definition, settings, config, special }: MatrixFile): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'rankmill-matrix-'))
  folders.push(folder)
  const contents = {
    'tokenizer.json': { ...definition, model: matrix.models[model] },
    'tokenizer_config.json': settings,
    'config.json': config,
    'special_tokens_map.json': special,
  }
  for (const [name, content] of Object.entries(contents)) {
    if (content === null) continue
    const text = JSON.stringify(content).replace(/"charsmap (\d+)"/g, (_, i) => `"${matrix.charsmaps[Number(i)]}"`)
    await writeFile(path.join(folder, name), text)
  }
  return folder
}

/** Long enough that no tokeniser reads all of it for a few ids. */
const LONG_UNITS = 6000

/** Ids up to here are compared as a beginning of a longer text, too. */
const FEW = 12

function compare(tokenizer: Tokenizer, { texts, pairs }: MatrixFile): { cases: number; wrong: unknown[] } {
  const wrong: unknown[] = []
  let cases = 0
  const check = (what: unknown, got: readonly number[], wanted: readonly number[]) => {
    cases += 1
    if (got.length !== wanted.length || got.some((id, i) => id !== wanted[i])) wrong.push({ what, got, wanted })
  }
  for (const [text, ids] of texts) {
    if (ids === null) continue
    check(text, [...tokenizer.encode(text, 100_000).ids], ids)
    check([text, FEW], [...tokenizer.encode(text, FEW).ids], ids.slice(0, FEW))
  }
  // A long text is read only as far as is asked for.
  const all = texts.map(([text]) => text).join(' ')
  const long = `${all} `.repeat(Math.ceil(LONG_UNITS / all.length))
  check('a long text', [...tokenizer.encode(long, FEW).ids], [...tokenizer.encode(long, 100_000).ids.slice(0, FEW)])
  const encoder = new PairEncoder(tokenizer, { maxTokens: 40, truncation: 'longest_first', cacheTokens: 0 })
  for (const [first, second, wanted] of pairs) {
    if (wanted === null) continue
    const { ids, secondStart } = encoder.encode(first, second)
    check([first, second], [...ids, secondStart], [...wanted[0], wanted[1]])
  }
  return { cases, wrong }
}

it(`covers and equals the reference: ${matrix.files.length} tokenizer files`, { timeout: 1_800_000 }, async () => {
  const faults: string[] = []
  let cases = 0
  for (const file of matrix.files) {
    try {
      const found = compare(await loadTokenizer(await laidOut(file)), file)
      cases += found.cases
      if (found.wrong.length > 0)
        faults.push(`${file.name}: ${found.wrong.length} of ${found.cases}, ${JSON.stringify(found.wrong[0])}`)
    } catch (error) {
      faults.push(`${file.name}: refused: ${(error as Error).message.replace(/^.*tokenizer\.json: /, '')}`)
    }
  }
  if (process.env.RANKMILL_TOKENIZER_MATRIX)
    console.log(`${matrix.files.length} files, ${cases} cases, ${faults.length} files other`)
  expect(faults).toEqual([])
})
