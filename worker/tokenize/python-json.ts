/** JSON as Python reads and writes it: with NaN and Infinity. */

const STRINGS_AND_NUMBERS = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g

/**
 * NaN becomes null: no field here has a use for it, and null is read as if the field were absent.
 *
 * @throws SyntaxError
 */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    const plain = text.replace(STRINGS_AND_NUMBERS, (found) => {
      if (found.startsWith('"')) return found
      return found === 'NaN' ? 'null' : found.replace('Infinity', '1e999')
    })
    try {
      return JSON.parse(plain)
    } catch {
      throw cause
    }
  }
}
