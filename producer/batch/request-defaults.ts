/** What a run fills in where its requests do not say. */
import { BULK_PRIORITY } from '../../shared/protocol/lanes.js'
import type { RerankInput } from '../../shared/protocol/request.js'

/** A request's own fields, under either of their names, come before the run's. */
export function withDefaults(
  request: RerankInput,
  defaults: Partial<RerankInput>,
  missing: 'error' | 'skip' | undefined,
): RerankInput {
  const filled: Record<string, unknown> = { priority: BULK_PRIORITY, ...request }
  for (const [name, value] of Object.entries(defaults)) {
    const wireName = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    if (value !== undefined && !(name in request) && !(wireName in request)) filled[name] = value
  }
  if (defaults.strategy && request.strategy) filled['strategy'] = { ...defaults.strategy, ...request.strategy }
  const { documents } = request
  if (missing !== undefined && typeof documents === 'object' && documents !== null && 'corpus' in documents) {
    filled['documents'] = { missing, ...documents }
  }
  return filled as unknown as RerankInput
}
