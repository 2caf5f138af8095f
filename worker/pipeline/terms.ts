/** Words as the lexical stages count them: lower case, letters and digits; ideographs and kana one by one. */
const IDEOGRAPH = '[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}]'
const TERM = new RegExp(`${IDEOGRAPH}|(?:(?!${IDEOGRAPH})[\\p{L}\\p{N}\\p{M}])+`, 'gu')

/** The terms of a text, in its order. */
export function termsOf(text: string): string[] {
  return text.normalize('NFKC').toLowerCase().match(TERM) ?? []
}
