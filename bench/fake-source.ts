/** Scorers without a model, to measure the path of jobs and not the path of matrices. */

import { FakeEngine } from '../worker/inference/fake-engine.js'
import type { Model } from '../worker/model/model.js'
import type { ScorerSource } from '../worker/scorers.js'
import { LocalTexts } from '../worker/text/local-texts.js'
import type { Tokenizer } from '../worker/tokenize/tokenizer.js'

const MODEL: Model = {
  name: 'fake',
  folder: '',
  dtype: 'fp32',
  modelPath: '',
  kind: 'cross-encoder',
  maxTokens: 512,
  usesTokenTypes: true,
  logits: 1,
  activation: 'sigmoid',
  fusion: {},
  calibrations: {},
  padId: 0,
  fingerprint: 'fake',
  batchInvariant: true,
  exits: [],
}

/** One token for each four characters: about what English has, at next to no cost. */
const TOKENIZER: Tokenizer = {
  encode(text, maxTokens) {
    const count = Math.ceil(text.length / 4)
    const ids = new Int32Array(Math.min(count, maxTokens))
    for (let i = 0; i < ids.length; i++) ids[i] = text.charCodeAt(i * 4)
    return { ids, complete: count <= maxTokens }
  },
  template: {
    before: Int32Array.of(101),
    between: Int32Array.of(102),
    after: Int32Array.of(102),
    typeIds: { before: 0, first: 0, between: 0, second: 1, after: 1 },
  },
  padId: 0,
  vocabularySize: 65_536,
}

export const fakeSource: ScorerSource = {
  openModel: async () => MODEL,
  loadTokenizer: async () => TOKENIZER,
  openTexts: () => new LocalTexts(async () => TOKENIZER),
  createEngine: async () => new FakeEngine(),
  openFilter: () => Promise.reject(new Error('there is no fake filter')),
}
