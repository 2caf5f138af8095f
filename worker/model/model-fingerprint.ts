/** Content hashes of models: scores may be reused only where everything that makes them is the same. */
import { createHash } from 'node:crypto'
import { dirname, join, relative } from 'node:path'
import { TOKENIZER_FILES } from '../tokenize/tokenizer.js'
import { type BoundFile, bindFile } from './bound-files.js'
import { fault } from './json-file.js'
import { SENTENCE_TRANSFORMERS_FILES } from './sentence-transformers.js'

/** Changes where the same files come to be read otherwise. */
const READING = 2

export interface Fingerprint {
  /** Hex. */
  readonly fingerprint: string
  /** The files that it stands for. */
  readonly files: readonly BoundFile[]
}

/**
 * A hash over the graph with its external weights, the tokeniser, what is read beside them, and the number format.
 *
 * @param externalFiles names beside the graph
 * @param digests hex SHA-256 by names in the folder, as far as rankmill.json gives them
 * @param more names in the folder of what else scores depend on
 * @param label the output that is the score, where that is said
 * @throws RankmillError `invalid_model` for a file that is not the one that rankmill.json describes
 */
export async function fingerprintOf(
  folder: string,
  modelPath: string,
  externalFiles: readonly string[],
  dtype: string,
  cacheDir: string,
  digests: Readonly<Record<string, string>> = {},
  more: readonly string[] = [],
  label?: number,
): Promise<Fingerprint> {
  const beside = ['tokenizer.json', 'config.json', ...TOKENIZER_FILES, ...SENTENCE_TRANSFORMERS_FILES, ...more]
  const paths = [
    modelPath,
    ...externalFiles.map((name) => join(dirname(modelPath), name)),
    ...beside.map((name) => join(folder, name)),
  ]
  const bound = await Promise.all(paths.map((path) => bindFile(path, cacheDir)))
  const files = bound.filter((file) => file !== undefined)
  for (const { path, sha256 } of files) {
    const wanted = digests[relative(folder, path).replaceAll('\\', '/')]
    if (wanted !== undefined && wanted !== sha256)
      throw fault(path, 'not the file that rankmill.json describes (sha256): copy all ONNX files again, of one version')
  }
  const fingerprint = createHash('sha256')
    .update(
      JSON.stringify([
        READING,
        dtype,
        bound.map((file) => file?.sha256 ?? null),
        ...(label === undefined ? [] : [label]),
      ]),
    )
    .digest('hex')
    .slice(0, 32)
  return Object.freeze({ fingerprint, files: Object.freeze(files) })
}
