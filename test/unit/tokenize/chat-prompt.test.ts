import { expect, test } from 'vitest'
import { ChatPrompt } from '../../../worker/tokenize/chat-prompt.js'

function filled(expression: string, query: string): string {
  const template = `{%- set query = messages[0].content %}{{ ${expression} }}{{ messages[1].content }}`
  return new ChatPrompt({ template, format: 'flat', variables: {}, instruction: null }).render(query, '', null)
}

test.each([
  // What Python's str.strip leaves out, and what JavaScript's trim does.
  ['query | trim', '\u001c\u0085 a\ufeff \u3000', 'a\ufeff'],
  ['query | trim', '\ufeff a \u001f', '\ufeff a'],
  ['query.strip()', ' \u2028a b\t\n', 'a b'],
  ['query.lstrip()', ' \u001d a ', 'a '],
  ['query.rstrip()', ' a\u2029\u00a0', ' a'],
  ["query.strip('\\n')", '\n a \n\n', ' a '],
  ["query.lstrip('ab')", 'abba cab', ' cab'],
  ["query.rstrip('😀.')", 'a.😀.😀', 'a'],
  ['(query | trim) | capitalize', ' éCOLE Ab', 'École ab'],
  ['query | trim', '', ''],
])('%s is as in Python', (expression, query, wanted) => {
  expect(filled(expression, query)).toBe(wanted)
})

test('a long run of spaces in the middle stays', () => {
  expect(filled('query | trim', `a${' '.repeat(200_000)}b`)).toHaveLength(200_002)
})
