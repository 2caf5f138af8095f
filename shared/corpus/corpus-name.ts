/** What a corpus may be called: a name in Redis, or a folder beside the workers. */
import { RankmillError } from '../errors.js'

const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/
export const CORPUS_NAME_RULE =
  'must be 1 to 128 of the characters A-Z a-z 0-9 _ . - and begin with none of the last two, or file: and a folder'

const FILE = 'file:'
const MAX_PATH = 4096

/** The folder of a `file:` corpus; undefined for the name of one in Redis. */
export function folderOf(corpus: string): string | undefined {
  return corpus.startsWith(FILE) ? corpus.slice(FILE.length) : undefined
}

/** Whether a request may name a corpus so. */
export function isCorpus(corpus: string): boolean {
  const folder = folderOf(corpus)
  if (folder === undefined) return NAME.test(corpus)
  return folder.length > 0 && folder.length <= MAX_PATH && !folder.includes('\0') && folder.isWellFormed()
}

/** @throws RankmillError `invalid_request` unless it is a name of a corpus in Redis */
export function checkCorpusName(name: string): void {
  if (NAME.test(name)) return
  const shown = JSON.stringify(name.length > 60 ? `${name.slice(0, 57)}...` : name)
  const message = folderOf(name)
    ? `corpus ${shown}: a file: corpus is read-only; build another with \`rankmill corpus build\``
    : `corpus ${shown}: the name ${CORPUS_NAME_RULE}`
  throw new RankmillError('invalid_request', message, { param: 'corpus' })
}

/** Who pins the version that all parts of a request read. */
export function requestPin(requestId: string): string {
  return `request-${requestId}`
}
