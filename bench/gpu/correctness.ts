/** Whether a device scores as the CPU does: fp32 scores of the CPU, kept, and another device's against them. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { tryDevice } from '../../worker/inference/device.js'
import type { Device } from '../../worker/model/model.js'
import { encoded, engineOptions, open, row, scored, sizes } from './scoring.js'
import { type Pairs, readTexts } from './texts.js'

/** By model: the logits of the first pairs of each length. */
type Reference = Record<string, Record<string, number[]>>

/** Pairs of each length that scores are compared on. */
const COMPARED = 24

async function comparedPairs(textsFile: string): Promise<[string, Pairs][]> {
  const texts = await readTexts(textsFile)
  const all = Object.entries(texts).map(([length, pairs]): [string, Pairs] => [length, pairs.slice(0, COMPARED)])
  // A device that is slow beyond measuring shows with one pair whether it computes right.
  return sizes().batchTokens ? all.slice(0, 1).map(([length, pairs]) => [length, pairs.slice(0, 1)]) : all
}

/** FILE, and the texts beside it, by the name that bench/gpu.sh gives them. */
export async function writeReference(file: string, names: string[]): Promise<void> {
  const reference: Reference = {}
  for (const name of names) {
    const model = await open(name, 'fp32', 'cpu')
    const logits: Record<string, number[]> = {}
    for (const [length, pairs] of await comparedPairs(join(file, '../texts.json')))
      logits[length] = [
        ...(await scored(model, await encoded(model, pairs), engineOptions('cpu', { batchTokens: 512 }))),
      ]
    reference[name] = logits
  }
  await writeFile(file, JSON.stringify(reference))
}

export async function compare(device: Device, file: string): Promise<void> {
  const tried = await tryDevice(device)
  row({ what: 'device', ...tried })
  if (tried.fault !== undefined) throw new Error(`${device}: ${tried.fault}`)
  const reference = JSON.parse(await readFile(file, 'utf8')) as Reference
  const compared = await comparedPairs(join(file, '../texts.json'))
  for (const [name, logits] of Object.entries(reference))
    for (const dtype of tried.halves ? (['fp32', 'fp16'] as const) : (['fp32'] as const)) {
      const model = await open(name, dtype, device)
      let [far, spread] = [0, 0]
      for (const [length, pairs] of compared) {
        const wanted = logits[length] ?? []
        const found = await scored(model, await encoded(model, pairs), engineOptions(device, sizes()))
        far = Math.max(far, ...Array.from(found, (logit, i) => Math.abs(logit - (wanted[i] ?? Number.NaN))))
        spread = Math.max(spread, Math.max(...wanted) - Math.min(...wanted))
      }
      // Of random texts, whose scores lie close together: a share of their spread says more than a distance.
      const equal = far < (dtype === 'fp32' ? 1e-3 : 2e-2) * Math.max(1, spread)
      row({ what: 'correct', model: name, dtype, device, farthest: far, spread, equal })
    }
}
