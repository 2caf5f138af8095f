/** Several cheap looks at the same candidates in one order: reciprocal rank fusion, each counting the same. */
import { ranksOf } from './fuse.js'
import type { Filter } from './prefilter.js'

/** Its scores are means of what the ranks are worth: 1 for who is first for all. */
export function fusedFilter(filters: readonly Filter[]): Filter {
  const contexts = filters.flatMap(({ context }) => context ?? [])
  const [context] = contexts
  return {
    name: filters.map(({ name }) => name).join('+'),
    readsTexts: filters.some(({ readsTexts }) => readsTexts),
    // A candidate has one embedding, which two bi-encoders cannot share.
    ...(context !== undefined && contexts.length === 1 ? { context } : {}),
    async score(...what) {
      const looks = await Promise.all(filters.map((filter) => filter.score(...what)))
      const worth = looks.map(({ scores }) => ranksOf(Array.from(scores, (score, index) => ({ index, score }))))
      const scores = Float64Array.from(
        worth[0] ?? [],
        (_, i) => worth.reduce((sum, each) => sum + (each[i] ?? 0), 0) / worth.length,
      )
      const embeddings = looks.find((look) => look.embeddings)?.embeddings
      return { scores, ...(embeddings ? { embeddings } : {}) }
    },
  }
}
