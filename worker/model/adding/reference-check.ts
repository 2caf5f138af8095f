/** Whether an added model scores as its reference does: sentence-transformers' CrossEncoder on the original folder. */
import { z } from 'zod'
import { RankmillError } from '../../../shared/errors.js'
import type { Options } from '../../../shared/options.js'
import { ListScorer } from '../../offline/list-scorer.js'
import type { Added } from './added-model.js'
import { runPython } from './python-environment.js'

/** Of a logit; of one that is larger than 1, its share: fp32 has no more digits. */
const TOLERANCE = 1e-4
/** Of the sample that the user's data gives. */
const MOST_PAIRS = 64
const SHOWN = 60

const LONG = 'the worker renews its lock while the batch is running, and gives the job back when it is told to stop. '
const QUERIES = ['how do I retry a failed job', '¿Qué pasa si el Worker muere? 任务会怎样']
const DOCUMENTS = [
  '',
  'Retry.',
  'A failed job is tried again with exponential back-off, up to the number of attempts that it was added with.',
  'Apples, cherries and strawberries are red.',
  "CamelCase UPPER don't can't it's 123,456.78 $5 e-mail@example.org",
  'two  spaces   and\ttab\nline two\r\nthird  ',
  'ﬁne Ａｂｃ ① café cafe\u0301 Å ΣΊΣΥΦΟΣ straße',
  'emoji 👩‍👩‍👧 \u200b zero width',
  '日本語のテキスト と 한국어 हिन्दी العربية',
  '[SEP] inside [CLS] a document <s> </s> [MASK]',
  'def f(x):\n        return   x\n',
  LONG.repeat(6),
  LONG.repeat(60),
  'a'.repeat(300),
]

export type ReferencePair = readonly [query: string, document: string]

const answerSchema = z.object({
  logits: z.array(z.array(z.number())),
  scores: z.array(z.array(z.number())),
  versions: z.record(z.string(), z.string()),
})

interface ReferenceOptions {
  readonly python: string
  readonly options: Options
  /** More pairs, of the user's own. */
  readonly pairs: readonly ReferencePair[]
  readonly signal: AbortSignal
}

/**
 * @param original the folder with the weights, @param folder that with the fp32 graph
 * @throws RankmillError `reference_differs`, naming the pair; `export_failed` where the reference does not load the original;
 *   as opening a model does
 */
export async function compareWithReference(
  original: string,
  folder: string,
  { python, options, pairs: own, signal }: ReferenceOptions,
): Promise<NonNullable<Added['reference']>> {
  const ours = QUERIES.flatMap((query) => DOCUMENTS.map((document) => [query, document] as const))
  const pairs: readonly ReferencePair[] = [...ours, ...own.slice(0, MOST_PAIRS)]
  const answer = answerSchema.parse(await runPython(python, 'reference.py', [original], JSON.stringify(pairs), signal))
  // As the model is, whatever the environment says of workers.
  const plain = { ...options, dtype: 'fp32', maxTokens: 0, truncation: 'longest_first', calibrate: false } as const
  const scorer = await ListScorer.open(folder, plain, signal)
  let greatestDifference = 0
  try {
    const { label, logits: width, activation } = scorer.model
    for (const [i, [query, document]] of pairs.entries()) {
      // Alone: what a batch changes is measured elsewhere.
      const [logit = Number.NaN] = await scorer.logits(query, [document])
      const score = activation === 'sigmoid' ? 1 / (1 + Math.exp(-logit)) : logit
      const of = (row: readonly number[] = []) =>
        label !== undefined || width !== 2 ? row[label ?? 0] : (row[1] ?? 0) - (row[0] ?? 0)
      const wanted = of(answer.logits[i]) ?? Number.NaN
      const wantedScore = width === 2 && label === undefined ? wanted : (of(answer.scores[i]) ?? Number.NaN)
      const difference = Math.abs(logit - wanted) / Math.max(1, Math.abs(wanted))
      const isEqual =
        difference <= TOLERANCE && Math.abs(score - wantedScore) <= TOLERANCE * Math.max(1, Math.abs(wantedScore))
      if (!isEqual) throw differs(query, document, [logit, wanted], [score, wantedScore])
      greatestDifference = Math.max(greatestDifference, difference)
    }
  } finally {
    await scorer.close()
  }
  const { versions } = answer
  return { at: new Date().toISOString(), pairs: pairs.length, greatestDifference, tolerance: TOLERANCE, versions }
}

function differs(query: string, document: string, logits: [number, number], scores: [number, number]): RankmillError {
  const shown = (text: string) => JSON.stringify(text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text)
  const words = ([ours, theirs]: [number, number]) => `${ours.toFixed(5)} instead of ${theirs.toFixed(5)}`
  const message = `the pair ${shown(query)}, ${shown(document)}: logit ${words(logits)}, score ${words(scores)}`
  return new RankmillError('reference_differs', message)
}
