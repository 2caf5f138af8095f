/** A worker process for chaos in volume: the model `fake` costs nothing, all others are real. Options are the environment's. */
import { fakeSource } from '../../bench/fake-source.js'
import { resolveOptions } from '../../shared/options.js'
import { modelSource } from '../../worker/model-source.js'
import type { ScorerSource } from '../../worker/scorers.js'
import { LocalTexts } from '../../worker/text/local-texts.js'
import { loadTokenizer } from '../../worker/tokenize/tokenizer.js'
import { RerankWorker } from '../../worker/worker.js'

const options = resolveOptions({})
const real = modelSource(options)
const fake = await fakeSource.openModel('', 'fp32')
const source: ScorerSource = {
  openModel: (reference, dtype) => (reference === 'fake' ? Promise.resolve(fake) : real.openModel(reference, dtype)),
  loadTokenizer: (model) => (model.folder === '' ? fakeSource : real).loadTokenizer(model),
  createEngine: (model) => (model.folder === '' ? fakeSource : real).createEngine(model),
  openTexts: () => new LocalTexts((folder) => (folder === '' ? fakeSource.loadTokenizer(fake) : loadTokenizer(folder))),
  openFilter: (reference, parts) => real.openFilter(reference, parts),
}
const worker = await RerankWorker.start(options, source)
process.on('SIGTERM', () => void worker.close().then(() => process.exit(0)))
