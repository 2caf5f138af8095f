/**
 * The one table of options: name, bounds, default and a line of help. Flags (`--max-documents`), environment variables
 * (`RANKMILL_MAX_DOCUMENTS`), library options (`maxDocuments`) and docs/configuration.md are all made from it.
 */
import { z } from 'zod'
import { RankmillError } from './errors.js'
import { DTYPES } from './protocol/dtype.js'
import { BULK_SUFFIX } from './protocol/lanes.js'

type OptionGroup = 'redis' | 'producer' | 'batch' | 'worker' | 'server' | 'models' | 'monitoring'

interface OptionSpec<T> {
  group: OptionGroup
  schema: z.ZodType<T>
  default: T
  help: string
  /** What the flag `--no-…` of a switch that is on does. */
  negated?: string
  /** What stands for the value in `--help`: `<n>`, `<ms>`; none for a switch. */
  value: string
  /** A second environment variable that is read when RANKMILL_… is not set. */
  env?: string
  /** The same request gives another answer with another value: a batch is not gone on with where it changed. */
  shapesResults?: true
}

const numeric = (value: unknown) => (typeof value === 'string' && value.trim() !== '' ? Number(value) : value)
const int = (min: number, max: number) => z.preprocess(numeric, z.int().min(min).max(max)) as z.ZodType<number>
const text = (max = 4096) => z.string().min(1).max(max) as z.ZodType<string>
const optionalText = (max = 4096) => z.string().max(max) as z.ZodType<string>
const oneOf = <const T extends readonly string[]>(...values: T) => z.enum(values) as unknown as z.ZodType<T[number]>
const flag = () =>
  z.preprocess(
    (v) => (v === 'true' || v === '1' ? true : v === 'false' || v === '0' ? false : v),
    z.boolean(),
  ) as z.ZodType<boolean>

const define = <const T>(spec: OptionSpec<T>): OptionSpec<T> => spec
const DAY = 86_400_000

export const OPTIONS = {
  redis: define({
    group: 'redis',
    schema: text(),
    default: 'redis://127.0.0.1:6379',
    value: '<url>',
    env: 'REDIS_URL',
    help: 'where Redis is: redis://[user:password@]host[:port][/database], redis+cluster://host:port,host:port, or redis+sentinel://host:port,host:port/name; rediss… for TLS',
  }),
  prefix: define({
    group: 'redis',
    schema: z.string().regex(/^[\w{}.-]{1,64}$/),
    default: '{rankmill}',
    value: '<text>',
    help: 'what every Redis key begins with; the braces keep all keys in one slot of a Redis Cluster',
  }),
  queue: define({
    group: 'redis',
    schema: z
      .string()
      .regex(/^[\w.-]{1,64}$/)
      .refine((name) => !name.endsWith(BULK_SUFFIX), `must not end in "${BULK_SUFFIX}": so the bulk lanes are called`),
    default: 'rerank',
    value: '<name>',
    help: 'name of the fleet; its producers and workers share the queues `<name>@<model>` and `<name>-bulk@<model>`',
  }),
  shards: define({
    group: 'redis',
    schema: int(0, 64),
    default: 0,
    value: '<n>',
    help: 'hash slots that the fleet is spread over, so that as many primaries of a Redis Cluster share its load (docs/redis.md); 0: as many as it has, 1 where it is new',
  }),
  commandTimeoutMs: define({
    group: 'redis',
    schema: int(100, 600_000),
    default: 10_000,
    value: '<ms>',
    help: 'how long one Redis command may take before it counts as failed (producers)',
  }),

  maxDocuments: define({
    group: 'producer',
    schema: int(1, 10_000_000),
    default: 100_000,
    value: '<n>',
    help: 'documents in one request',
  }),
  maxDocumentBytes: define({
    group: 'producer',
    schema: int(1, 256_000_000),
    default: 1_000_000,
    value: '<bytes>',
    help: 'length of one document, in UTF-8',
  }),
  maxQueryBytes: define({
    group: 'producer',
    schema: int(1, 10_000_000),
    default: 32_768,
    value: '<bytes>',
    help: 'length of the query, in UTF-8',
  }),
  maxJobPairs: define({
    group: 'producer',
    schema: int(1, 100_000),
    default: 256,
    value: '<n>',
    help: 'candidates in one job; a request with more is split among workers',
  }),
  maxPrefilterDocuments: define({
    group: 'producer',
    schema: int(1, 1_000_000),
    default: 10_000,
    value: '<n>',
    help: 'documents in one request with strategy.prefilter or strategy.cascade: it is one job whatever its size, because all of them are compared',
  }),
  shareIdentical: define({
    group: 'producer',
    schema: flag(),
    default: true,
    value: '',
    negated: 'give each request a job of its own, even where one of the same content is under way',
    help: 'requests that are waited for, without an id and a deadline, share the job of one of the same content that is under way',
  }),
  maxRequestBytes: define({
    group: 'producer',
    schema: int(1, 256_000_000),
    default: 128_000_000,
    value: '<bytes>',
    help: 'length of a request, its query and all documents or ids together, in UTF-8',
  }),
  maxQueuedJobs: define({
    group: 'producer',
    schema: int(1, 100_000_000),
    default: 100_000,
    value: '<n>',
    help: 'jobs that may wait in a lane of a pool, in each shard; submissions that would go beyond are refused as overloaded',
  }),
  maxQueuedBytes: define({
    group: 'producer',
    schema: int(1, 1_000_000_000_000),
    default: 2_000_000_000,
    value: '<bytes>',
    help: 'what the jobs that wait in a lane of a pool may hold together, in each shard; submissions that would go beyond are refused as overloaded',
  }),
  unservedMs: define({
    group: 'producer',
    schema: int(1000, 365 * DAY),
    default: 60_000,
    value: '<ms>',
    help: 'how long a request waits for a worker that serves its model before it ends as unknown_model',
  }),
  attempts: define({
    group: 'producer',
    schema: int(1, 100),
    default: 5,
    value: '<n>',
    help: 'tries at a job before it counts as failed (only failures that a retry can help are tried again)',
  }),
  retryBackoffMs: define({
    group: 'producer',
    schema: int(1, 600_000),
    default: 500,
    value: '<ms>',
    help: 'wait before the second try at a job; it doubles with each further try',
  }),
  resultTtlMs: define({
    group: 'producer',
    schema: int(1000, 365 * DAY),
    default: 3_600_000,
    value: '<ms>',
    help: 'how long a result is kept in Redis',
  }),
  requestTtlMs: define({
    group: 'producer',
    schema: int(1000, 365 * DAY),
    default: 7 * DAY,
    value: '<ms>',
    help: 'how long an unanswered request is remembered in Redis',
  }),
  waitTimeoutMs: define({
    group: 'producer',
    schema: int(1, 7 * DAY),
    default: 600_000,
    value: '<ms>',
    help: 'how long a caller waits for a result when the request has no deadline',
  }),
  pollIntervalMs: define({
    group: 'producer',
    schema: int(10, 600_000),
    default: 1000,
    value: '<ms>',
    help: 'how often awaited results are asked for in case their event was lost',
  }),

  maxLineBytes: define({
    group: 'batch',
    schema: int(1024, 1_000_000_000),
    default: 67_108_864,
    value: '<bytes>',
    help: 'length of one line of a batch file; a longer one becomes an error line',
  }),
  maxWindowRequests: define({
    group: 'batch',
    schema: int(1, 1_000_000),
    default: 5000,
    value: '<n>',
    help: 'requests of a batch under way at once, however many workers there are',
  }),
  maxWindowBytes: define({
    group: 'batch',
    schema: int(1024, 64_000_000_000),
    default: 134_217_728,
    value: '<bytes>',
    help: 'input lines of a batch under way at once, in bytes: bounds the memory of the run and of Redis',
  }),
  checkpointMs: define({
    group: 'batch',
    schema: int(50, 600_000),
    default: 1000,
    value: '<ms>',
    help: 'how often the output of a batch is synced to disk and its checkpoint renewed',
  }),
  leaseMs: define({
    group: 'batch',
    schema: int(1000, 3_600_000),
    default: 30_000,
    value: '<ms>',
    help: 'a run of a batch that gives no sign of life for this long may be taken over by another',
  }),
  resubmitMs: define({
    group: 'batch',
    schema: int(100, 3_600_000),
    default: 10_000,
    value: '<ms>',
    help: 'a request of a batch that is not answered for this long is submitted again, in case Redis lost it; the time doubles each time',
  }),

  corpusPinMs: define({
    group: 'batch',
    schema: int(60_000, 365 * DAY),
    default: DAY,
    value: '<ms>',
    help: 'how long the versions of corpora that a batch reads are kept after its last sign of life',
  }),

  model: define({
    group: 'worker',
    shapesResults: true,
    schema: text(),
    default: 'rankmill-small',
    value: '<name>',
    help: 'the model a worker serves: a shipped name, a folder, or a hub id (org/name); several, divided by commas, the first being the default; `name=folder` serves a folder under a name of its own',
  }),
  filter: define({
    group: 'worker',
    shapesResults: true,
    schema: text(),
    default: 'rankmill-filter',
    value: '<name>',
    help: 'the bi-encoder that requests may name as strategy.prefilter.model, loaded when first named: a shipped name, a folder, or a hub id; several, divided by commas',
  }),
  dtype: define({
    group: 'worker',
    shapesResults: true,
    schema: oneOf('auto', ...DTYPES),
    default: 'auto',
    value: '<type>',
    help: 'number format of the model: auto, fp32, fp16, int8 or int4; auto is int8 on a CPU where the model has a batch-invariant one, fp16 on a GPU',
  }),
  device: define({
    group: 'worker',
    shapesResults: true,
    schema: oneOf('auto', 'cpu', 'cuda', 'webgpu'),
    default: 'auto',
    value: '<name>',
    help: 'where the model runs: auto, cpu, cuda or webgpu; auto takes CUDA where a GPU shows itself (Linux) and passes a trial, else the CPU',
  }),
  concurrency: define({
    group: 'worker',
    schema: int(1, 10_000),
    default: 32,
    value: '<n>',
    help: 'jobs that one worker holds at once, so that batches can be filled across jobs, an equal share of them for each shard; bulk jobs have as many slots of their own, and take no more of them than keep the batches full',
  }),
  maxInflightPairs: define({
    group: 'worker',
    schema: int(1, 10_000_000),
    default: 8192,
    value: '<n>',
    help: 'encoded pairs that one worker holds at once: bounds its memory; each lane has half',
  }),
  threads: define({
    group: 'worker',
    schema: int(0, 1024),
    default: 0,
    value: '<n>',
    help: 'CPU threads for inference in this process; 0 takes every core',
  }),
  sessions: define({
    group: 'worker',
    schema: int(0, 256),
    default: 0,
    value: '<n>',
    help: 'inference sessions that share the threads; 0 lets the calibration choose',
  }),
  batchPairs: define({
    group: 'worker',
    schema: int(0, 65_536),
    default: 0,
    value: '<n>',
    help: 'pairs in one model call at most; 0 lets the calibration choose',
  }),
  batchTokens: define({
    group: 'worker',
    schema: int(0, 16_777_216),
    default: 0,
    value: '<n>',
    help: 'padded tokens in one model call at most; 0 lets the calibration choose',
  }),
  prefixCacheMb: define({
    group: 'worker',
    schema: int(0, 1_048_576),
    default: 256,
    value: '<mb>',
    help: 'what each session of a causal model keeps of the prompts that documents have in common, in MiB; 0 reads each prompt whole',
  }),
  callTimeoutMs: define({
    group: 'worker',
    schema: int(1000, 86_400_000),
    default: 300_000,
    value: '<ms>',
    help: 'a model call that takes longer is given up: its process is replaced, and the pairs are tried in smaller batches until the one at fault stands alone',
  }),
  calibrate: define({
    group: 'worker',
    schema: flag(),
    default: true,
    value: '',
    negated: 'take a usual batch shape instead of measuring the best one',
    help: 'measure the best batch shape at the first start (remembered in the cache folder)',
  }),
  calibrateMs: define({
    group: 'worker',
    schema: int(100, 3_600_000),
    default: 10_000,
    value: '<ms>',
    help: 'the longest that measuring the batch shape may take once the model is loaded; what was best until then is taken',
  }),
  maxTokens: define({
    group: 'worker',
    shapesResults: true,
    schema: int(0, 1_000_000),
    default: 0,
    value: '<n>',
    help: 'tokens of a pair, the rest is cut and counted as truncated; 0 takes what the model can',
  }),
  truncation: define({
    group: 'worker',
    shapesResults: true,
    schema: oneOf('longest_first', 'only_second'),
    default: 'longest_first',
    value: '<rule>',
    help: 'what is cut of a pair that is too long: longest_first, or only_second (the document)',
  }),
  maxWindows: define({
    group: 'worker',
    shapesResults: true,
    schema: int(1, 10_000),
    default: 32,
    value: '<n>',
    help: 'windows that one document is read in at most with long_documents "windows"; what lies behind them counts as truncated',
  }),
  windowOverlapPercent: define({
    group: 'worker',
    shapesResults: true,
    schema: int(0, 90),
    default: 25,
    value: '<percent>',
    help: 'share of a window that the next one has too',
  }),
  maxEntryAgeMs: define({
    group: 'worker',
    schema: int(1, 3_600_000),
    default: 10_000,
    value: '<ms>',
    help: 'a pair that has waited this long for a batch goes before those of a better priority',
  }),
  textThreads: define({
    group: 'worker',
    schema: int(0, 64),
    default: 0,
    value: '<n>',
    help: 'threads that tokenise, cut and count words, so that no text holds up a worker; 0 takes one for every four cores',
  }),
  textTimeoutMs: define({
    group: 'worker',
    schema: int(100, 3_600_000),
    default: 60_000,
    value: '<ms>',
    help: 'a thread that works this long on some texts is replaced, and their jobs are tried again',
  }),
  tokenCacheTokens: define({
    group: 'worker',
    schema: int(0, 1_000_000_000),
    default: 4_000_000,
    value: '<n>',
    help: 'token ids of passages kept in memory, so that each passage is tokenised once (4 bytes a token); text threads have equal shares of it',
  }),
  scoreCacheTtlMs: define({
    group: 'worker',
    schema: int(0, 365 * DAY),
    default: DAY,
    value: '<ms>',
    help: 'how long scores are kept in Redis for pairs that come again; 0 turns the score cache off',
  }),
  localScoreCacheEntries: define({
    group: 'worker',
    schema: int(0, 100_000_000),
    default: 100_000,
    value: '<n>',
    help: 'scores that a worker keeps in its own memory in front of those in Redis (about 300 bytes each); 0 keeps none',
  }),
  sharedScoreCacheEntries: define({
    group: 'worker',
    schema: int(0, 1_000_000_000),
    default: 5_000_000,
    value: '<n>',
    help: 'scores kept in Redis at most (about 32 bytes each and 300 a query); those of queries written longest ago go first; 0 keeps none there',
  }),
  embeddingCacheBytes: define({
    group: 'worker',
    schema: int(0, 64_000_000_000),
    default: 128_000_000,
    value: '<bytes>',
    help: 'embeddings of prefilters that are kept in memory, so that each text is embedded once; 0 keeps none',
  }),
  embeddingCacheTtlMs: define({
    group: 'worker',
    schema: int(0, 365 * DAY),
    default: DAY,
    value: '<ms>',
    help: 'how long embeddings of prefilters are kept in Redis at most (half of it at least); 0 keeps none there',
  }),
  sharedEmbeddingCacheEntries: define({
    group: 'worker',
    schema: int(0, 1_000_000_000),
    default: 100_000,
    value: '<n>',
    help: 'embeddings of a prefilter that are kept in Redis (about 450 bytes each); 0 keeps none there',
  }),
  corpusCacheBytes: define({
    group: 'worker',
    schema: int(0, 64_000_000_000),
    default: 64_000_000,
    value: '<bytes>',
    help: 'texts of corpus passages kept in memory',
  }),
  corpusRoot: define({
    group: 'worker',
    schema: text(),
    default: '.',
    value: '<folder>',
    help: 'folder that file: corpora must lie in; relative ones are looked for there',
  }),
  lockMs: define({
    group: 'worker',
    schema: int(1000, 3_600_000),
    default: 30_000,
    value: '<ms>',
    help: 'how long a job stays with a worker that gives no sign of life',
  }),
  maxStalled: define({
    group: 'worker',
    schema: int(0, 100),
    default: 3,
    value: '<n>',
    help: 'how often a job may lose its worker before it counts as failed',
  }),
  drainTimeoutMs: define({
    group: 'worker',
    schema: int(0, 3_600_000),
    default: 30_000,
    value: '<ms>',
    help: 'how long running jobs may take to finish after the first signal to stop; then they go back to the queue',
  }),
  cacheDir: define({
    group: 'worker',
    schema: text(),
    default: '.rankmill/cache',
    value: '<folder>',
    help: 'folder for downloaded models and calibration results',
  }),

  host: define({
    group: 'server',
    schema: text(255),
    default: '127.0.0.1',
    value: '<address>',
    help: 'address that the API server listens on',
  }),
  port: define({
    group: 'server',
    schema: int(0, 65_535),
    default: 8080,
    value: '<port>',
    help: 'port of the API server; 0 takes a free one',
  }),
  auth: define({
    group: 'server',
    schema: oneOf('auto', 'required', 'open'),
    default: 'auto',
    value: '<rule>',
    help: 'who may call the API: required (API keys), open (everybody), or auto: open on a loopback address, keys on any other',
  }),
  scoreCacheScope: define({
    group: 'server',
    schema: oneOf('key', 'shared'),
    default: 'key',
    value: '<scope>',
    help: 'whose requests may be answered with scores that are known: those of the same API key, or of every key (shared): faster, and the time of an answer tells what others asked',
  }),
  hosts: define({
    group: 'server',
    schema: optionalText(),
    default: '',
    value: '<names>',
    help: 'names that callers may use for this server, divided by commas; * allows any; by default those of loopback addresses where it listens on one and asks nobody for a key, else any',
  }),
  maxBodyBytes: define({
    group: 'server',
    schema: int(1024, 4_000_000_000),
    default: 134_217_728,
    value: '<bytes>',
    help: 'length of the body of one API request, after decompression; files have a limit of their own',
  }),
  bodyTimeoutMs: define({
    group: 'server',
    schema: int(100, 3_600_000),
    default: 60_000,
    value: '<ms>',
    help: 'how long a caller may take to send the body of a request, files not counted',
  }),
  maxWaitingRequests: define({
    group: 'server',
    schema: int(1, 1_000_000),
    default: 2000,
    value: '<n>',
    help: 'requests that one API server waits for at once; further ones are answered with 429',
  }),
  modelAliases: define({
    group: 'server',
    schema: optionalText(),
    default: '',
    value: '<names>',
    help: 'other names for models, as name=model divided by commas; *=model takes every name that no worker serves',
  }),
  dataDir: define({
    group: 'server',
    schema: text(),
    default: '.rankmill/server',
    value: '<folder>',
    help: 'folder of the API server: uploaded files, and batches under way; servers that share batches share it, or use S3',
  }),
  files: define({
    group: 'server',
    schema: optionalText(),
    default: '',
    value: '<url>',
    help: 'where uploaded files are kept: s3://bucket/prefix, or nothing for the data folder',
  }),
  filesEndpoint: define({
    group: 'server',
    schema: optionalText(),
    default: '',
    value: '<url>',
    help: 'address of an S3-compatible store other than that of AWS (credentials come from the usual AWS_ variables)',
  }),
  maxFileBytes: define({
    group: 'server',
    schema: int(1024, 1_000_000_000_000),
    default: 5_000_000_000,
    value: '<bytes>',
    help: 'length of one uploaded file',
  }),
  maxFiles: define({
    group: 'server',
    schema: int(1, 1_000_000),
    default: 1000,
    value: '<n>',
    help: 'uploaded files that one API key may keep',
  }),
  fileTtlMs: define({
    group: 'server',
    schema: int(60_000, 365 * DAY),
    default: 30 * DAY,
    value: '<ms>',
    help: 'how long files, and what is known of batches, are kept',
  }),
  maxBatchRequests: define({
    group: 'server',
    schema: int(1, 100_000_000),
    default: 1_000_000,
    value: '<n>',
    help: 'requests in one batch of the API',
  }),
  maxRunningBatches: define({
    group: 'server',
    schema: int(0, 1000),
    default: 4,
    value: '<n>',
    help: 'batches that one API server runs at once; 0 leaves them to other servers',
  }),
  webhookSecret: define({
    group: 'server',
    schema: optionalText(256),
    default: '',
    value: '<secret>',
    help: 'secret that webhooks of callers without an API key are signed with: whsec_ and 24 to 64 bytes in base64',
  }),
  webhookAttempts: define({
    group: 'server',
    schema: int(1, 100),
    default: 10,
    value: '<n>',
    help: 'tries at a webhook, the wait between them doubling each time, before it is kept as a dead letter',
  }),
  webhookBackoffMs: define({
    group: 'server',
    schema: int(1, 3_600_000),
    default: 5000,
    value: '<ms>',
    help: 'wait between the first two tries at a webhook, of which up to half is left to chance',
  }),
  webhookTimeoutMs: define({
    group: 'server',
    schema: int(1, 600_000),
    default: 15_000,
    value: '<ms>',
    help: 'how long a receiver of a webhook may take to answer',
  }),
  maxDeadLetters: define({
    group: 'server',
    schema: int(1, 1_000_000),
    default: 10_000,
    value: '<n>',
    help: 'webhooks that nobody took and that are kept to be sent again, of all keys together; the oldest go first',
  }),
  deadLetterTtlMs: define({
    group: 'server',
    schema: int(60_000, 365 * DAY),
    default: 30 * DAY,
    value: '<ms>',
    help: 'how long such a webhook is kept',
  }),
  webhookAllow: define({
    group: 'server',
    schema: optionalText(),
    default: '',
    value: '<networks>',
    help: 'private addresses that webhooks may go to, as 10.1.0.0/16 divided by commas; others are refused',
  }),

  python: define({
    group: 'models',
    schema: text(),
    default: 'python3',
    value: '<path>',
    help: 'the Python that `models quantize` and `models add` run; quantising needs numpy and onnx (training/quantize-requirements.txt)',
  }),

  metricsPort: define({
    group: 'monitoring',
    schema: int(0, 65_535),
    default: 9464,
    value: '<port>',
    help: 'port of /metrics, /healthz and /readyz; 0 takes a free one',
  }),
  metricsHost: define({
    group: 'monitoring',
    schema: text(255),
    default: '127.0.0.1',
    value: '<address>',
    help: 'address that /metrics, /healthz and /readyz listen on',
  }),
  livenessMs: define({
    group: 'monitoring',
    schema: int(1000, 3_600_000),
    default: 120_000,
    value: '<ms>',
    help: 'a worker that holds jobs and finishes no batch for this long is reported as not alive',
  }),
  logLevel: define({
    group: 'monitoring',
    schema: oneOf('trace', 'debug', 'info', 'warn', 'error', 'silent'),
    default: 'info',
    value: '<level>',
    help: 'what is logged: trace, debug, info, warn, error or silent',
  }),
}

export type OptionName = keyof typeof OPTIONS
/** Options that answers depend on. Limits are none: they only decide whether there is an answer. */
export const RESULT_OPTIONS: readonly OptionName[] = (Object.keys(OPTIONS) as OptionName[]).filter(
  (name) => 'shapesResults' in OPTIONS[name] && OPTIONS[name].shapesResults,
)
type ValueOf<K extends OptionName> = (typeof OPTIONS)[K]['default'] extends infer D
  ? D extends string
    ? z.output<(typeof OPTIONS)[K]['schema']>
    : D extends boolean
      ? boolean
      : number
  : never
/** Every option, filled: nothing inside Rankmill is optional that has a default. */
export type Options = Readonly<{ [K in OptionName]: ValueOf<K> }>
/** What callers may give: undefined means "not given". */
export type OptionsInput = { [K in OptionName]?: ValueOf<K> | undefined }

/** `maxDocuments` -> `max-documents`. */
export function flagOf(name: string): string {
  return name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)
}

/** `maxDocuments` -> `RANKMILL_MAX_DOCUMENTS`. */
export function envOf(name: string): string {
  return `RANKMILL_${flagOf(name).replaceAll('-', '_').toUpperCase()}`
}

/** Where the fleet of this folder is: what stands before the defaults where nobody says where Redis is. */
export type FoundFleet = Pick<Options, 'redis' | 'prefix' | 'queue'>

/**
 * Fills the options once, at the edge: what is given, else the environment, else a fleet that is found, else the default.
 *
 * @param find looks for a fleet, and is asked only where neither the call nor the environment names a Redis
 * @throws RankmillError `invalid_configuration`, naming the option, where it came from, its bounds and the value.
 */
export function resolveOptions(
  given: Record<string, unknown> = {},
  env: NodeJS.ProcessEnv = process.env,
  find: () => FoundFleet | undefined = () => undefined,
): Options {
  for (const name of Object.keys(given)) {
    if (!(name in OPTIONS)) {
      throw new RankmillError('invalid_configuration', `unknown option "${name}"`, { param: name })
    }
  }
  const filled: Record<string, unknown> = {}
  const found: Partial<Record<string, unknown>> = redisIsNamed(given, env) ? {} : { ...find() }
  for (const [name, spec] of Object.entries(OPTIONS)) {
    const own = envOf(name)
    const [value, source] =
      given[name] !== undefined
        ? [given[name], `--${flagOf(name)}`]
        : env[own] !== undefined && env[own] !== ''
          ? [env[own], own]
          : 'env' in spec && env[spec.env] !== undefined && env[spec.env] !== ''
            ? [env[spec.env], spec.env]
            : [undefined, '']
    filled[name] = value === undefined ? (found[name] ?? spec.default) : checkOption(name, spec.schema, value, source)
  }
  return Object.freeze(filled) as Options
}

/** Whether a call or the environment says where Redis is. */
export function redisIsNamed(given: { redis?: unknown }, env: NodeJS.ProcessEnv = process.env): boolean {
  return given.redis !== undefined || [envOf('redis'), OPTIONS.redis.env ?? ''].some((name) => Boolean(env[name]))
}

function checkOption(name: string, schema: z.ZodType, value: unknown, source: string): unknown {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const reason = reasonOf(parsed.error.issues[0])
  const shown = name === 'redis' || name === 'webhookSecret' ? '(hidden)' : JSON.stringify(value)
  throw new RankmillError('invalid_configuration', `${source}: ${reason}; got ${shown}`, { param: name })
}

function reasonOf(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === 'invalid_value') return `must be one of ${issue.values.map(String).join(', ')}`
  if (issue?.code === 'invalid_type') return `must be a ${issue.expected === 'int' ? 'whole number' : issue.expected}`
  if (issue?.code === 'too_small' && issue.origin !== 'string') return `must be at least ${issue.minimum}`
  if (issue?.code === 'too_big' && issue.origin !== 'string') return `must be at most ${issue.maximum}`
  return issue?.message ?? 'not valid'
}
