/** The public entry of the package. */

export type { CorpusInfo } from '../shared/corpus.js'
export { ERRORS, type ErrorBody, type ErrorCode, RankmillError } from '../shared/errors.js'
export { BULK_PRIORITY } from '../shared/lanes.js'
export type { OptionsInput as RerankClientOptions } from '../shared/options.js'
export type { RerankInput } from '../shared/request.js'
export type { RankedDocument, RerankResult, Timings, Usage } from '../shared/result.js'
export type { WorkerInfo } from '../shared/worker-info.js'
export { type BatchFileOptions, openBatch } from './batch/batch-file.js'
export type { BatchReport } from './batch/batch-report.js'
export type { BatchProgress, BatchRun } from './batch/batch-run.js'
export { retryFailed } from './batch/retry-failed.js'
export {
  type RequestState,
  type RequestStatus,
  type RerankAllOptions,
  RerankClient,
  type RerankOutcome,
  type WaitOptions,
} from './client.js'
export type { PutOptions } from './corpora/corpus-writer.js'
