/**
 * Pools: which workers can serve a request. A queue is named by what its requests need (a model, a number format where one
 * is asked for, and the other models that their strategies name), and a worker takes from the queues whose every need it
 * serves. So a fleet may hold any mixture of models and machines, and no job reaches a worker that cannot do it.
 */
import type { RerankRequest } from './request.js'
import { FIRST_STAGE_FILTER } from './strategy.js'
import type { WorkerInfo } from './worker-info.js'

/** What the jobs of a queue need. */
export interface PoolNeeds {
  readonly model: string
  /** `auto`: what each worker was started with. */
  readonly dtype: string
  /** Models of cascades. */
  readonly cascade: readonly string[]
  /** Bi-encoders of prefilters. */
  readonly filters: readonly string[]
}

/** Filters that need no model. */
export const BUILT_IN_FILTERS: ReadonlySet<string> = new Set(['bm25', FIRST_STAGE_FILTER])
/** Divide the parts of a pool's name; in its models' names encodeURIComponent escapes them, and ':' and '|'. */
const [DTYPE, CASCADE, FILTER] = ['@', '+', '&'] as const

/** Shipped models go by a short name too: `small` is `rankmill-small`. */
export function fullName(name: string): string {
  return /^(small|nano|filter)$/.test(name) ? `rankmill-${name}` : name
}

/** Full name -> what it is opened by, of a list divided by commas, in which `name=reference` gives it another name. */
export function servedModels(list: string): Map<string, string> {
  return new Map(
    list.split(',').map((item) => {
      const [, name, reference = item] = /^([^=/\\]+)=(.+)$/.exec(item) ?? []
      return [fullName((name ?? reference).trim()), reference.trim()]
    }),
  )
}

/** The model that is meant where several are listed. */
export function firstModel(list: string): string {
  return [...servedModels(list).keys()][0] ?? ''
}

/** A model as it stands in the name of a pool. */
export function encodedModel(name: string): string {
  return encodeURIComponent(fullName(name))
}

/** The name of a request's pool without its model, which is resolved when the request is noted. */
export function poolSuffix({
  dtype,
  cascade,
  prefilter,
}: Pick<RerankRequest, 'dtype' | 'cascade' | 'prefilter'>): string {
  const models = [...new Set(cascade.map(({ model }) => encodedModel(model)))].sort()
  const named = prefilter === null || BUILT_IN_FILTERS.has(prefilter.model) ? [] : prefilter.model.split('+')
  const filters = [...new Set(named.filter((name) => !BUILT_IN_FILTERS.has(name)).map(encodedModel))].sort()
  return [
    dtype === 'auto' ? '' : `${DTYPE}${dtype}`,
    ...models.map((model) => `${CASCADE}${model}`),
    ...filters.map((filter) => `${FILTER}${filter}`),
  ].join('')
}

/** The pool of requests that name no more than a model. */
export function plainPool(model: string): string {
  return encodedModel(model)
}

export function needsOf(pool: string): PoolNeeds {
  const [, model = '', dtype = 'auto', others = ''] = /^([^@+&]*)(?:@([^+&]*))?(.*)$/.exec(pool) ?? []
  const named = (mark: string) =>
    Array.from(others.matchAll(/([+&])([^+&]*)/g))
      .filter(([, kind]) => kind === mark)
      .map(([, , name = '']) => decodeURIComponent(name))
  return { model: decodeURIComponent(model), dtype, cascade: named(CASCADE), filters: named(FILTER) }
}

/** Whether a worker takes the jobs of a pool. */
export function serves({ models, filters }: Pick<WorkerInfo, 'models' | 'filters'>, pool: string): boolean {
  const needs = needsOf(pool)
  return (
    [needs.model, ...needs.cascade].every((model) => models.includes(model)) &&
    needs.filters.every((filter) => filters.includes(filter))
  )
}

/** The field of a request that names what no worker serves; where all is served, but not by one, its model's. */
export function unservedField(workers: readonly Pick<WorkerInfo, 'models' | 'filters'>[], pool: string): string {
  const { model, cascade, filters } = needsOf(pool)
  const isServed = (name: string) => workers.some(({ models }) => models.includes(name))
  if (!isServed(model)) return 'model'
  if (!cascade.every(isServed)) return 'strategy.cascade'
  const hasFilter = (name: string) => workers.some((worker) => worker.filters.includes(name))
  return filters.every(hasFilter) ? 'model' : 'strategy.prefilter.model'
}

/** What a pool needs, for people: `bge-m3 (fp16) with rankmill-nano`. */
export function describePool(pool: string): string {
  const { model, dtype, cascade, filters } = needsOf(pool)
  const others = [...cascade, ...filters]
  return `${model}${dtype === 'auto' ? '' : ` (${dtype})`}${others.length > 0 ? ` with ${others.join(' and ')}` : ''}`
}
