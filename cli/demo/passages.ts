/** Real text that is on every machine: the READMEs and docs of the installed packages, cut into passages. */
import { existsSync } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface Passage {
  /** `package/path.md:line` of where it begins. */
  readonly id: string
  readonly text: string
}

/** Long enough to answer a question, short enough for a model's window. */
const PASSAGE_CHARACTERS = 700
const MIN_CHARACTERS = 80
const MAX_FILE_BYTES = 400_000
const NOT_PROSE = /(changelog|changes|history|license|licence|code_of_conduct|sponsors|contributors|security)/i

/** The node_modules folder that Rankmill's own dependencies are in. */
export function packagesFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    const candidate = join(folder, 'node_modules')
    if (existsSync(join(candidate, 'bullmq'))) return candidate
    if (dirname(folder) === folder) throw new Error('no node_modules folder holds the dependencies of rankmill')
    folder = dirname(folder)
  }
}

export async function readPassages(folder: string): Promise<Passage[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile() && /\.(md|markdown)$/i.test(entry.name) && !NOT_PROSE.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .filter((file) => !relative(folder, file).includes('/test/'))
    .sort()
  const passages: Passage[] = []
  const seen = new Set<string>()
  for (const file of files) {
    if ((await stat(file)).size > MAX_FILE_BYTES) continue
    for (const passage of cutMarkdown(await readFile(file, 'utf8'), relative(folder, file))) {
      // The same README comes with several versions of a package.
      if (seen.has(passage.text)) continue
      seen.add(passage.text)
      passages.push(passage)
    }
  }
  return passages
}

/** Cuts Markdown at headings, and between paragraphs where a section is long; each passage begins with its heading. */
function cutMarkdown(markdown: string, source: string): Passage[] {
  const passages: Passage[] = []
  let heading = ''
  let startLine = 1
  let lines: string[] = []
  let fenced = false
  const flush = () => {
    const body = lines
      .join('\n')
      .replace(/\n{2,}/g, '\n')
      .trim()
    lines = []
    if (body.length >= MIN_CHARACTERS)
      passages.push({ id: `${source}:${startLine}`, text: heading ? `${heading}\n${body}` : body })
  }
  markdown.split(/\r?\n/).forEach((raw, i) => {
    const line = fenced ? raw : raw.replace(/<[^>]+>|!\[[^\]]*\]\([^)]*\)/g, '').replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    if (/^\s*(```|~~~)/.test(line)) fenced = !fenced
    const title = fenced ? null : /^#{1,6}\s+(.*?)\s*#*$/.exec(line)
    if (title) {
      flush()
      heading = (title[1] ?? '').replaceAll('`', '')
      startLine = i + 1
      return
    }
    if (lines.length === 0 && line.trim() === '') return
    if (lines.length === 0 && passages.length > 0) startLine = i + 1
    lines.push(line.trimEnd())
    const size = lines.reduce((sum, l) => sum + l.length + 1, 0)
    const paragraphEnds = line.trim() === '' && !fenced
    if ((paragraphEnds && size >= PASSAGE_CHARACTERS) || size >= 2 * PASSAGE_CHARACTERS) flush()
  })
  flush()
  return passages
}
