/** `rankmill corpus embed`: what a prefilter needs to know of a corpus's passages, made once. */
import { availableParallelism } from 'node:os'
import { checkCorpusName, folderOf } from '../../shared/corpus/corpus-name.js'
import type { CorpusShelves } from '../../shared/corpus/corpus-shelves.js'
import { RankmillError } from '../../shared/errors.js'
import { makeLogger } from '../../shared/logger.js'
import type { Options } from '../../shared/options.js'
import { fullName } from '../../shared/protocol/pool.js'
import { openEncoder } from '../../worker/model-source.js'
import { type EmbedReport, embedCorpus } from '../../worker/offline/embed-corpus.js'

/**
 * @param named NAME or NAME@VERSION
 * @throws RankmillError `invalid_request` for what is no name; as opening the model and `embedCorpus` do
 */
export async function embedNamed(
  corpora: CorpusShelves,
  named: string,
  model: string,
  options: Options,
  progress: { onProgress: (passages: number) => void; signal: AbortSignal },
): Promise<EmbedReport & { name: string; model: string }> {
  const { name, version } = nameAndVersion(named)
  await corpora.currentVersion(name)
  const log = makeLogger(options.logLevel, 'rankmill-inference')
  const encoder = await openEncoder(fullName(model), options, {
    threads: options.threads || availableParallelism(),
    log,
  })
  try {
    const report = await embedCorpus(corpora.of(name), name, version, encoder, progress)
    return { name, model: encoder.model.name, ...report }
  } finally {
    await encoder.close()
  }
}

/** @throws RankmillError `invalid_request` */
export function nameAndVersion(named: string): { name: string; version: string | undefined } {
  if (folderOf(named) !== undefined) {
    const message = `corpus ${JSON.stringify(named)}: embeddings are stored for corpora in Redis, not for folders`
    throw new RankmillError('invalid_request', message, { param: 'corpus' })
  }
  const at = named.lastIndexOf('@')
  const [name, version] = at < 0 ? [named, undefined] : [named.slice(0, at), named.slice(at + 1)]
  checkCorpusName(name)
  return { name, version }
}
