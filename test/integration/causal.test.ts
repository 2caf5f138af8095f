/** Causal rerankers in real sessions: scores as the reference has them, whatever the batch and what is kept. */
import { copyFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { assembleBatch } from '../../worker/batching/batch-assembly.js'
import { ScoringSession } from '../../worker/inference/session.js'
import { type Model, openModel } from '../../worker/model/model.js'
import type { PromptSettings } from '../../worker/tokenize/chat-prompt.js'
import type { EncodedPair } from '../../worker/tokenize/pair-encoder.js'
import { PromptEncoder } from '../../worker/tokenize/prompt-encoder.js'
import { loadTokenizer } from '../../worker/tokenize/tokenizer.js'
import { CAUSAL_FIXTURES, causalGolden, causalModel, copyOfCausal } from '../fixtures/models/causal-models.js'
import { temporaryFolder } from '../fixtures/models/tiny-models.js'

const MB = 2 ** 20

async function opened(folder: string): Promise<Model> {
  const cacheDir = await temporaryFolder()
  return await openModel(folder, { dtype: 'fp32', device: 'cpu', cacheDir, allowHub: false })
}

/** Pairs of the golden rows, with the reference's logits. */
async function goldenPairs(model: Model, name: (typeof CAUSAL_FIXTURES)[number]) {
  const tokenizer = await loadTokenizer(model.folder)
  const { maxTokens } = model
  const rows = causalGolden(name)
  const pairs = rows.map(({ query, document, instruction }) => {
    const options = { maxTokens, truncation: 'longest_first', instruction } as const
    return new PromptEncoder(tokenizer, model.prompt as PromptSettings, options).encode(query, document)
  })
  return { pairs, logits: rows.map(({ logit }) => logit) }
}

function whole({ prefix: _, ...pair }: EncodedPair): EncodedPair {
  return pair
}

async function scores(session: ScoringSession, { padId }: Model, pairs: readonly EncodedPair[], size: number) {
  const found: number[] = []
  for (let at = 0; at < pairs.length; at += size) {
    const batch = pairs.slice(at, at + size).map((pair) => ({ pair }))
    found.push(...(await session.run(assembleBatch(batch, padId, false))).logits)
  }
  return found
}

function worst(found: readonly number[], wanted: readonly number[]): number {
  return Math.max(...wanted.map((logit, i) => Math.abs(logit - (found[i] ?? Number.NaN))))
}

describe.each(CAUSAL_FIXTURES)('%s', (name) => {
  test('alone, in batches and behind what is kept, scores are the reference’s', async () => {
    const model = await opened(causalModel(name))
    const { pairs, logits } = await goldenPairs(model, name)
    const session = await ScoringSession.open({ model, device: 'cpu', threads: 1, prefixCacheBytes: MB })
    try {
      expect(model.causal === undefined).toBe(name === 'qwen3-classification')
      if (model.causal) expect(session.abilities).toEqual({ company: 'any', behindPrefix: 'any' })
      for (const size of [1, 7, pairs.length]) {
        expect(worst(await scores(session, model, pairs.map(whole), size), logits)).toBeLessThan(1e-4)
        expect(worst(await scores(session, model, pairs, size), logits)).toBeLessThan(1e-4)
      }
    } finally {
      await session.release()
    }
  })
})

test.each([
  ['a head of the two answers alone', 'model_fp16.onnx', { company: 'any', behindPrefix: 'any' }],
  ['neither positions nor past keys', 'model_int8.onnx', { company: 'any', behindPrefix: undefined }],
  [
    'one operator for attention, which takes past keys of one row',
    'model_q4.onnx',
    { company: 'any', behindPrefix: 'alone' },
  ],
  ['num_logits_to_keep', 'model_int4.onnx', { company: 'equal', behindPrefix: undefined }],
])('a graph with %s gives the same scores', async (_, file, abilities) => {
  const folder = await copyOfCausal('qwen3-plain')
  await copyFile(join(folder, 'onnx', file), join(folder, 'onnx/model.onnx'))
  const model = await opened(folder)
  const { pairs, logits } = await goldenPairs(model, 'qwen3-plain')
  const session = await ScoringSession.open({ model, device: 'cpu', threads: 1, prefixCacheBytes: MB })
  try {
    expect(session.abilities).toEqual(abilities)
    expect(worst(await scores(session, model, pairs, 7), logits)).toBeLessThan(1e-4)
  } finally {
    await session.release()
    await rm(folder, { recursive: true })
  }
})

test('with less room than one prefix needs, and with none, prompts are read whole', async () => {
  const model = await opened(causalModel('qwen3-plain'))
  const { pairs, logits } = await goldenPairs(model, 'qwen3-plain')
  for (const prefixCacheBytes of [0, 1000, 120_000]) {
    const session = await ScoringSession.open({ model, device: 'cpu', threads: 1, prefixCacheBytes })
    expect(worst(await scores(session, model, pairs, 16), logits)).toBeLessThan(1e-4)
    await session.release()
  }
})
