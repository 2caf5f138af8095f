/**
 * The sentences of a text, in time that grows with its length and no faster. `Intl.Segmenter` is quadratic: a document of
 * 1 MB takes it 16 to 150 seconds. So it is given slices, of which the sentences at the end are read again with the next.
 */
const SENTENCES = new Intl.Segmenter('en', { granularity: 'sentence' })

/** UTF-16 code units of a slice, and how far it grows to hold a sentence. */
const SLICE = 2048
/** A sentence of more code units is cut: far more than any model reads. */
const LONGEST = 32_768

/**
 * The same sentences that the segmenter finds in the whole text, as long as none is over `longest` code units; one that is
 * comes in pieces.
 */
export function* sentencesOf(text: string, slice = SLICE, longest = LONGEST): Iterable<string> {
  let at = 0
  let size = slice
  while (at < text.length) {
    const end = Math.min(at + size, text.length)
    const found = Array.from(SENTENCES.segment(text.slice(at, end)), ({ segment }) => segment)
    if (end === text.length) {
      yield* found
      return
    }
    // The last one may go on, and where it begins hangs on what follows (`etc. |42 more`): the one before is certain.
    const certain = found.slice(0, -2)
    for (const sentence of certain) {
      yield sentence
      at += sentence.length
    }
    if (certain.length > 0) size = slice
    else if (size < longest) size = Math.min(2 * size, longest)
    else {
      const piece = wellCut(text, at, found.length > 1 ? at + (found[0] ?? '').length : end)
      yield piece
      at += piece.length
      size = slice
    }
  }
}

/** Never between the halves of a surrogate pair. */
function wellCut(text: string, from: number, to: number): string {
  const isInside = (text.charCodeAt(to) & 0xfc00) === 0xdc00 && (text.charCodeAt(to - 1) & 0xfc00) === 0xd800
  return text.slice(from, isInside ? to - 1 : to)
}
