/** The public entry of the package. */

export type { CorpusInfo } from '../shared/corpus.js'
export { ERRORS, type ErrorBody, type ErrorCode, RankmillError } from '../shared/errors.js'
export type { OptionsInput as RerankClientOptions } from '../shared/options.js'
export type { RankedDocument, RerankInput, RerankResult, Timings, Usage } from '../shared/request.js'
export {
  type RequestState,
  type RequestStatus,
  type RerankAllOptions,
  RerankClient,
  type RerankOutcome,
  type WaitOptions,
} from './client.js'
export type { PutOptions } from './corpora/corpus-writer.js'
