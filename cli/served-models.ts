/** Which models the workers of a command have to serve, and which of them a request asks for. */
import type { Command } from 'commander'
import type { Options } from '../shared/options.js'
import { FIRST_STAGE_FILTER } from '../shared/protocol/strategy.js'
import { checkReference } from '../worker/model/model-reference.js'
import { BM25 } from '../worker/pipeline/prefilter.js'
import { fullName } from '../worker/scorers.js'
import { type StrategyFlags, stageOf } from './strategy-flags.js'

/** The options of workers that serve what the flags of requests name, too. */
export function servingOptions(options: Options, { cascade, prefilterModel }: StrategyFlags): Options {
  const stages = cascade?.split(',').map((stage) => stageOf(stage).model) ?? []
  const filters = prefilterModel?.split('+').filter((name) => ![BM25.name, FIRST_STAGE_FILTER].includes(name)) ?? []
  // A filter whose own name holds a + is served under it already.
  const served = prefilterModel !== undefined && namesIn(options.filter).includes(prefilterModel)
  return {
    ...options,
    model: listOf(options.model, stages),
    filter: served ? options.filter : listOf(options.filter, filters),
  }
}

/** The model that `--model` asks for: of several, which the workers serve, the first. undefined: the workers' own first. */
export function requestedModel(command: Command, options: Options): string | undefined {
  return command.getOptionValueSource('model') === 'cli' ? namesIn(options.model)[0] : undefined
}

/**
 * Finds out before anything starts that a model is not there.
 *
 * @throws RankmillError `unknown_model`
 */
export async function checkModels({ model, filter }: Options): Promise<void> {
  for (const name of [...namesIn(model), ...namesIn(filter)]) await checkReference(name)
}

function namesIn(list: string): string[] {
  return list.split(',').map((name) => name.trim())
}

function listOf(list: string, more: readonly string[]): string {
  const names = namesIn(list)
  for (const name of more) if (!names.some((known) => fullName(known) === fullName(name))) names.push(name)
  return names.join(',')
}
