/** The tokeniser of a model folder in Hugging Face layout: text to token ids, as `transformers` loads it. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { readJsonIfThere } from '../model/json-file.js'
import { readSavedSettings, type SavedKind } from '../model/sentence-transformers.js'
import type { PairTemplate } from './pair-template.js'
import { parsePythonJson } from './python-json.js'
import type { Json } from './rebuilt-definition.js'
import { buildTokenizer } from './tokenizer-file.js'

export interface EncodedText {
  readonly ids: Int32Array
  /** false when the text had more than maxTokens tokens: ids holds the first maxTokens. */
  readonly complete: boolean
}

export interface Tokenizer {
  /**
   * Token ids of one text without special tokens, at most maxTokens of them. A long text is read only as far as that
   * needs. Lone surrogates count as U+FFFD.
   */
  encode(text: string, maxTokens: number): EncodedText
  /** The special tokens around and between the segments of a pair, and the type id of every part. */
  readonly template: PairTemplate
  readonly padId: number
  /** One more than the highest token id. */
  readonly vocabularySize: number
}

/** Besides tokenizer.json, what a folder's tokeniser depends on. */
export const TOKENIZER_FILES = ['tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'] as const

const settings = z.record(z.string(), z.unknown())

async function readDefinition(file: string): Promise<unknown> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new RankmillError('invalid_model', `${file} cannot be read: ${(cause as Error).message}`, {}, { cause })
  }
  try {
    return parsePythonJson(text)
  } catch (cause) {
    throw new RankmillError('invalid_model', `${file} is not JSON: ${(cause as Error).message}`, {}, { cause })
  }
}

/**
 * Reads tokenizer.json, and what tokenizer_config.json, special_tokens_map.json and sentence-transformers' files lay over
 * it.
 *
 * @param kind what sentence-transformers would load the folder as
 * @throws RankmillError invalid_model, naming the file and its fault
 */
export async function loadTokenizer(folder: string, kind: SavedKind = 'CrossEncoder'): Promise<Tokenizer> {
  const file = path.join(folder, 'tokenizer.json')
  const definition = await readDefinition(file)
  const [config, specialTokens, legacyTokens, model, saved] = await Promise.all([
    readJsonIfThere(folder, 'tokenizer_config.json', settings),
    readJsonIfThere(folder, 'special_tokens_map.json', settings),
    readJsonIfThere(folder, 'added_tokens.json', z.record(z.string(), z.int().nonnegative())),
    readJsonIfThere(folder, 'config.json', settings),
    readSavedSettings(folder, kind),
  ])
  try {
    return buildTokenizer({
      definition: settings.parse(definition) satisfies Json,
      settings: { ...config, ...saved.tokenizer },
      specialTokens: specialTokens ?? {},
      legacyTokens: legacyTokens ?? {},
      model: model ?? {},
      lowercase: saved.lowercase,
    })
  } catch (cause) {
    if (cause instanceof RankmillError) throw cause
    const reason = cause instanceof z.ZodError ? 'it is not a tokenizer' : (cause as Error).message
    throw new RankmillError('invalid_model', `${file}: ${reason}`, {}, { cause })
  }
}
