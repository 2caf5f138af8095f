/**
 * Several cheap looks at the same candidates in one order, each counting the same: reciprocal rank fusion, or a convex
 * combination of z-scores, which keeps how far apart candidates are (Bruch, Gai and Ingber 2022).
 */
import type { Prefilter } from '../../shared/protocol/strategy.js'
import { ranksOf, zScores } from './fuse.js'
import type { Filter } from './prefilter.js'

/**
 * By rank its scores are means of what the ranks are worth, 1 for who is first for all; by score, means of z-scores over
 * the candidates, whose own mean is 0.
 */
export function fusedFilter(filters: readonly Filter[], by: Prefilter['by']): Filter {
  const contexts = filters.flatMap(({ context }) => context ?? [])
  const [context] = contexts
  return {
    name: filters.map(({ name }) => name).join('+'),
    readsTexts: filters.some(({ readsTexts }) => readsTexts),
    // A candidate has one embedding, which two bi-encoders cannot share.
    ...(context !== undefined && contexts.length === 1 ? { context } : {}),
    async score(...what) {
      const looks = await Promise.all(filters.map((filter) => filter.score(...what)))
      const worth = looks.map(({ scores }) => {
        const list = Array.from(scores)
        return by === 'score' ? zScores(list) : ranksOf(list.map((score, index) => ({ index, score })))
      })
      const scores = Float64Array.from(
        worth[0] ?? [],
        (_, i) => worth.reduce((sum, each) => sum + (each[i] ?? 0), 0) / worth.length,
      )
      const embeddings = looks.find((look) => look.embeddings)?.embeddings
      const parts = looks.map((look, i) => ({ name: filters[i]?.name ?? '', scores: look.scores }))
      return { scores, parts, ...(embeddings ? { embeddings } : {}) }
    },
  }
}
