/** The sentences of a long document that say most about a query. */
import { sentencesOf } from './sentences.js'
import { termsOf } from './terms.js'

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
  const sentences = [...sentencesOf(document)]
  const wanted = new Map([...new Set(termsOf(query))].map((term, place) => [term, place]))
  const having = new Uint32Array(wanted.size)
  const found = sentences.map((sentence) => {
    const places = new Set<number>()
    for (const term of termsOf(sentence)) {
      const place = wanted.get(term)
      if (place !== undefined) places.add(place)
    }
    for (const place of places) having[place] = (having[place] ?? 0) + 1
    return [...places].sort((a, b) => a - b)
  })
  const weights = Float64Array.from(having, (count) => Math.log(1 + sentences.length / (count || 1)))
  const scores = found.map((places) => places.reduce((sum, place) => sum + (weights[place] ?? 0), 0))
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
