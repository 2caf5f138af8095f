/** The public entry of the package. */

export type { CorpusInfo } from '../shared/corpus/corpora.js'
export { ERRORS, type ErrorBody, type ErrorCode, RankmillError } from '../shared/errors.js'
export type { OptionsInput as RerankClientOptions } from '../shared/options.js'
export { BULK_PRIORITY } from '../shared/protocol/lanes.js'
export type { RerankInput } from '../shared/protocol/request.js'
export type { RankedDocument, RerankResult, Timings, Usage } from '../shared/protocol/result.js'
export type { WorkerInfo } from '../shared/protocol/worker-info.js'
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
  type SubmitSettings,
  type WaitOptions,
} from './client.js'
export type { PutOptions } from './corpora/corpus-writer.js'
