/** The card of a model on a terminal: one thing a line. */

import type { Added } from '../worker/model/adding/added-model.js'
import type { ModelCard } from '../worker/model/model-card.js'
import { plainTable } from './table.js'

export function cardInWords(card: ModelCard): string {
  const { loads, added } = card
  const formats = Object.entries(card.dtypes).map(([dtype, bytes]) => `${dtype} ${(bytes / 1e6).toFixed(1)} MB`)
  const prompts = Object.entries(card.prompts).map(([name, text]) => `${name} ${JSON.stringify(text ?? '')}`)
  const lines: [string, string][] = [
    ['name', card.name],
    ['folder', card.folder],
    ['kind', card.kind],
    ['architecture', card.architecture ?? '?'],
    ['licence', card.licence ?? 'not said'],
    ['formats', formats.join(', ') || 'none'],
    [
      'loads on a CPU',
      loads ? `${loads.dtype}${loads.batchInvariant ? '' : ' (scores depend on the batch)'}` : 'nothing',
    ],
    ...(card.fault === null ? [] : [['fault', card.fault] satisfies [string, string]]),
    ...(loads ? headOf(card, loads) : []),
    ['tokens', `${card.maxTokens ?? '?'} a pair (${card.positions ?? 'unknown'} positions)`],
    ['prompts', prompts.join(', ') || 'none'],
    ...(prompts.length > 0
      ? [['before each query', card.defaultPrompt ?? 'none of them'] satisfies [string, string]]
      : []),
    ['exits', card.exitLayers.length > 0 ? `after layers ${card.exitLayers.join(', ')}` : 'none'],
    ...(added
      ? checksOf(added)
      : [['checked', 'not added by `rankmill models add`: nothing is noted'] satisfies [string, string]]),
    ...(loads ? [['fingerprint', loads.fingerprint] satisfies [string, string]] : []),
  ]
  const width = Math.max(80, process.stdout.columns ?? 80)
  const table = plainTable([], { colWidths: [20, width - 22], wordWrap: true })
  table.push(...lines)
  return table.toString()
}

function headOf(
  { labels }: ModelCard,
  { logits, label, activation }: NonNullable<ModelCard['loads']>,
): [string, string][] {
  if (logits === null) return []
  const named = labels.length > 1 ? ` (${labels.join(', ')})` : ''
  const score = label === null ? (logits === 2 ? 'the second less the first' : 'the logit') : `the logit of ${label}`
  return [
    ['outputs', `${logits}${named}`],
    ['score', `${score}${activation === 'sigmoid' ? ', through a sigmoid' : ', as it is'}`],
  ]
}

function checksOf({ from, version, at, exported, reference, measured }: Added): [string, string][] {
  const with_ = (versions: Readonly<Record<string, string>>) =>
    Object.entries(versions)
      .map(([name, of]) => `${name} ${of}`)
      .join(', ')
  const compared = reference
    ? `${reference.pairs} pairs against ${with_(reference.versions)}: greatest difference of a logit ` +
      `${reference.greatestDifference.toExponential(0)} (${reference.at.slice(0, 10)})`
    : 'not compared with the reference'
  return [
    ['added', `${at.slice(0, 10)}, from ${from} at ${version.slice(0, 12)}`],
    ['graph', exported ? `exported with ${with_(exported.versions)}, opset ${exported.opset}` : "the source's own"],
    ['checked', compared],
    ...Object.entries(measured).map(([dtype, { pairsPerSecond, rankCorrelation, greatestDifference, at: when }]) => {
      const against =
        rankCorrelation === undefined
          ? ''
          : `, rank correlation with fp32 ${rankCorrelation.toFixed(4)}, greatest difference of a score ${(greatestDifference ?? 0).toFixed(4)}`
      return [dtype, `${pairsPerSecond.toFixed(1)} pairs/s${against} (${when.slice(0, 10)})`] satisfies [string, string]
    }),
  ]
}
