/** The sentences of a long document that say most about a query. */
import { termsOf } from './terms.js'

const SENTENCES = new Intl.Segmenter('en', { granularity: 'sentence' })

/**
 * Sentences are ranked by the query's terms in them, each term counted once and weighed by how few of the document's
 * own sentences have it (ln(1 + sentences / sentences with it)); equal ones in the document's order. Down the ranking
 * each sentence is taken that still fits; what is taken is put in the document's order. Nothing outside the document
 * counts, so that a document's score never depends on the others in its request.
 *
 * @param maxTokens how many tokens the snippet may have
 * @param countTokens tokens of a text; anything over maxTokens for texts of more
 * @returns the best sentence alone, whatever its length, where not even that fits
 */
export function snippetOf(
  query: string,
  document: string,
  maxTokens: number,
  countTokens: (text: string) => number,
): string {
  const sentences = Array.from(SENTENCES.segment(document), ({ segment }) => segment)
  const wanted = [...new Set(termsOf(query))]
  const found = sentences.map((sentence) => {
    const terms = new Set(termsOf(sentence))
    return wanted.filter((term) => terms.has(term))
  })
  const having = new Map<string, number>()
  for (const term of found.flat()) having.set(term, (having.get(term) ?? 0) + 1)
  const weigh = (term: string) => Math.log(1 + sentences.length / (having.get(term) ?? 1))
  const scores = found.map((terms) => terms.reduce((sum, term) => sum + weigh(term), 0))
  const ranking = sentences.map((_, i) => i).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
  const taken: number[] = []
  let room = maxTokens
  for (const i of ranking) {
    if (room < 1) break
    const tokens = countTokens(sentences[i] ?? '')
    if (tokens > room) continue
    taken.push(i)
    room -= tokens
  }
  if (taken.length === 0) taken.push(ranking[0] ?? 0)
  return taken
    .sort((a, b) => a - b)
    .map((i) => sentences[i])
    .join('')
}
