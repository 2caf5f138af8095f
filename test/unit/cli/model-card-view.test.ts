/** The card of a model, as a terminal shows it. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { cardInWords } from '../../../cli/model-card-view.js'
import { cardOf } from '../../../worker/model/model-card.js'
import { copyOf, temporaryFolder, tinyModel } from '../../fixtures/models/tiny-models.js'

test('a model that was not added', async () => {
  const card = cardInWords(await cardOf(tinyModel('one-logit'), { cacheDir: await temporaryFolder() }))
  expect(card).toMatch(/architecture +BertForSequenceClassification/)
  expect(card).toMatch(/score +the logit, through a sigmoid/)
  expect(card).toMatch(/checked +not added by/)
})

test('one label of several, and what was checked of an added one', async () => {
  const folder = await copyOf('three-label')
  const at = '2026-01-02T03:04:05.000Z'
  const reference = { at, pairs: 28, greatestDifference: 6e-7, tolerance: 1e-4, versions: { torch: '2' } }
  const measured = { fp32: { at, pairsPerSecond: 12.34 }, int8: { at, pairsPerSecond: 30, rankCorrelation: 0.99 } }
  const added = { key: 'k', from: 'org/nli', version: '0123456789abcdef', at, architecture: 'B', reference, measured }
  const manifest = { name: 'nli', dtypes: { fp32: 'onnx/model.onnx' }, label: 1, added }
  await writeFile(join(folder, 'rankmill.json'), JSON.stringify(manifest))
  const card = cardInWords(await cardOf(folder, { cacheDir: await temporaryFolder() }))
  expect(card).toMatch(/outputs +3 \(contradiction, entailment, neutral\)/)
  expect(card).toMatch(/score +the logit of entailment, as it is/)
  expect(card).toMatch(/added +2026-01-02, from org\/nli at 0123456789ab/)
  expect(card).toMatch(/checked +28 pairs against torch 2: .*difference of a logit\s+6e-7 \(2026-01-02\)/)
  expect(card).toMatch(/int8 +30\.0 pairs\/s, rank correlation with fp32 0\.9900/)
})

test('one that does not load says why', async () => {
  const card = cardInWords(await cardOf(tinyModel('three-label'), { cacheDir: await temporaryFolder() }))
  expect(card).toMatch(/loads on a CPU +nothing/)
  expect(card.replace(/\s+/g, ' ')).toMatch(/the head has 3 outputs/)
})
