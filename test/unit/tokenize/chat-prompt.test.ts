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
  // Characters are code points, whatever takes two units here.
  ['query | length', 'a😀b𝒳', '4'],
  ['query[1]', 'a😀b', '😀'],
  ['query[-1]', 'ab😀', '😀'],
  ["query[9] | default('none')", '😀', 'none'],
  ['query | first', '😀a', '😀'],
  ["query | last | default('none')", '', 'none'],
  ['query[1:3]', 'a😀b', '😀b'],
  ['query[::-1]', 'a😀', '😀a'],
  ['(query[:1] ~ messages[0].content[1:]) | length', 'a😀b', '3'],
  ['query | title', "éa it's HELLO (ok) a.b", "Éa It's Hello (Ok) A.b"],
  ['query.title()', "éa it's HELLO", "Éa It'S Hello"],
  ["query.split() | join('|')", ' a\u001fb\ufeff\u3000c ', 'a|b\ufeff|c'],
  ["query.split(none, 1) | join('|')", ' a b  c ', 'a|b  c '],
  ["query.split('--') | join('|')", 'a--b---c', 'a|b|-c'],
  ["query.split('-', 1) | join('|')", 'a-b-c', 'a|b-c'],
])('%s is as in Python', (expression, query, wanted) => {
  expect(filled(expression, query)).toBe(wanted)
})

test.each(['query | strip', 'query | split', 'query.trim()'])('%s is refused, as in Python', (expression) => {
  expect(() => filled(expression, 'a')).toThrow()
})

test('a long run of spaces in the middle stays', () => {
  expect(filled('query | trim', `a${' '.repeat(200_000)}b`)).toHaveLength(200_002)
})
