/** Which models the workers of a command have to serve, and which of them a request asks for. */
import type { Command } from 'commander'
import type { Options } from '../shared/options.js'
import { BUILT_IN_FILTERS, firstModel, fullName, servedModels } from '../shared/protocol/pool.js'
import { checkReference } from '../worker/model/model-reference.js'
import { type StrategyFlags, stageOf } from './strategy-flags.js'

/** The options of workers that serve what the flags of requests name, too. */
export function servingOptions(options: Options, { cascade, prefilterModel }: StrategyFlags): Options {
  const stages = cascade?.split(',').map((stage) => stageOf(stage).model) ?? []
  const filters = prefilterModel?.split('+').filter((name) => !BUILT_IN_FILTERS.has(name)) ?? []
  // A filter whose own name holds a + is served under it already.
  const served = prefilterModel !== undefined && servedModels(options.filter).has(fullName(prefilterModel))
  return {
    ...options,
    model: listOf(options.model, stages),
    filter: served ? options.filter : listOf(options.filter, filters),
  }
}

/** The model that `--model` asks for: of several, which the workers serve, the first. undefined: the workers' own first. */
export function requestedModel(command: Command, options: Options): string | undefined {
  return command.getOptionValueSource('model') === 'cli' ? firstModel(options.model) : undefined
}

/**
 * Finds out before anything starts that a model is not there.
 *
 * @throws RankmillError `unknown_model`
 */
export async function checkModels({ model, filter }: Options): Promise<void> {
  for (const list of [model, filter])
    for (const reference of servedModels(list).values()) await checkReference(reference)
}

function listOf(list: string, more: readonly string[]): string {
  const served = new Set(servedModels(list).keys())
  return [list, ...new Set(more.filter((name) => !served.has(fullName(name))))].join(',')
}
