/** The tokeniser of a model folder in Hugging Face layout: text to token ids, as the `tokenizers` library does it. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import type { PairTemplate } from './pair-template.js'
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

async function readJson(file: string): Promise<unknown> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new RankmillError('invalid_model', `${file} cannot be read: ${(cause as Error).message}`, {}, { cause })
  }
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new RankmillError('invalid_model', `${file} is not JSON: ${(cause as Error).message}`, {}, { cause })
  }
}

/**
 * Reads tokenizer.json and tokenizer_config.json of a model folder. Known are WordPiece with BERT's normaliser,
 * Unigram with Metaspace, and byte-level BPE.
 *
 * @throws RankmillError invalid_model, naming the file and its fault
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const file = path.join(folder, 'tokenizer.json')
  const configFile = path.join(folder, 'tokenizer_config.json')
  const definition = await readJson(file)
  const config = await readJson(configFile)
  try {
    return buildTokenizer(definition, config)
  } catch (cause) {
    if (cause instanceof RankmillError) throw cause
    throw new RankmillError('invalid_model', `${file}: ${(cause as Error).message}`, {}, { cause })
  }
}
