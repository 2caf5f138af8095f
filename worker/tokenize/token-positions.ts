/**
 * Where in a text its tokens are. The tokenisers keep no offsets, because hardly anybody asks for them; for the few
 * texts where somebody does, the text is taken apart at spaces, and the parts are tokenised again one by one.
 */
import type { Tokenizer } from './tokenizer.js'

/** Before a single space between visible characters, where every pre-tokeniser ends a word. */
const WORD_END = /[\p{L}\p{N}\p{P}\p{S}](?= [\p{L}\p{N}])/gu

/**
 * Ends of the first `counts[i]` tokens of a text, in UTF-16 code units. Exact between words; inside a word it is the
 * longest beginning of the word that has no more tokens.
 *
 * @param ids the text's token ids, as many of them at least as the highest count
 * @param counts numbers of tokens, ascending
 */
export function tokenEnds(tokenizer: Tokenizer, text: string, ids: Int32Array, counts: readonly number[]): number[] {
  const words = wordsUpTo(tokenizer, text, ids, counts.at(-1) ?? 0)
  let word = 0
  return counts.map((count) => {
    while (word + 1 < words.length && (words[word + 1]?.tokensBefore ?? 0) <= count) word++
    const { start, end, tokensBefore } = words[word] ?? { start: 0, end: text.length, tokensBefore: 0 }
    return start + endWithin(tokenizer, text.slice(start, end), count - tokensBefore)
  })
}

/** Where a span of a text's tokens begins and ends, without the white space around it. */
export function placeOf(
  tokenizer: Tokenizer,
  text: string,
  [from, to]: readonly [from: number, to: number],
): { start: number; end: number } {
  const { ids } = tokenizer.encode(text, to)
  const [before = 0, end = text.length] = tokenEnds(tokenizer, text, ids, [from, to])
  const part = text.slice(before, end)
  const start = before + part.length - part.trimStart().length
  return { start, end: Math.max(start, before + part.trimEnd().length) }
}

interface Word {
  readonly start: number
  readonly end: number
  readonly tokensBefore: number
}

/** The text's words with the tokens before each; the text as one word where it does not fall apart at spaces. */
function wordsUpTo(tokenizer: Tokenizer, text: string, ids: Int32Array, tokens: number): Word[] {
  const words: Word[] = []
  let start = 0
  let tokensBefore = 0
  const ends = Array.from(text.matchAll(WORD_END), (found) => found.index + found[0].length)
  for (const end of [...ends, text.length]) {
    if (tokensBefore >= tokens) break
    words.push({ start, end, tokensBefore })
    const own = tokenizer.encode(text.slice(start, end), ids.length - tokensBefore).ids
    if (own.some((id, i) => id !== ids[tokensBefore + i])) return [{ start: 0, end: text.length, tokensBefore: 0 }]
    tokensBefore += own.length
    start = end
  }
  return words
}

/** Words are tried from their end, because a beginning (`mod`) can have more tokens than a longer one (`model`). */
const TRIED_ONE_BY_ONE = 64

function endWithin(tokenizer: Tokenizer, word: string, tokens: number): number {
  if (tokens <= 0) return 0
  const fits = (end: number) => tokenizer.encode(word.slice(0, end), tokens).complete
  if (fits(word.length)) return word.length
  let low = 0
  let high = word.length
  while (high - low > TRIED_ONE_BY_ONE) {
    const middle = Math.ceil((low + high) / 2)
    if (fits(middle)) low = middle
    else high = middle
  }
  let end = Math.min(word.length, low + TRIED_ONE_BY_ONE)
  while (end > low && !fits(end)) end--
  // Never between the halves of a surrogate pair.
  return end < word.length && (word.charCodeAt(end) & 0xfc00) === 0xdc00 ? end - 1 : end
}
