/**
 * The text that a model reads of a query and a document: its chat template, filled as sentence-transformers fills it
 * (`InputFormatter.pair_to_messages`, `prepend_prompt_to_messages`): one message a role, the instruction as the system's.
 */
import { Template } from '@huggingface/jinja'
import { characters, PYTHON_FILTERS, PYTHON_METHODS } from './python-strings.js'

/** Frozen plain data: it is sent to threads. */
export interface PromptSettings {
  /** Jinja. */
  readonly template: string
  /** Whether a message's content is its text, or a list of parts. */
  readonly format: 'flat' | 'structured'
  /** What the template is given beside the messages: special tokens, and what the folder says. */
  readonly variables: Readonly<Record<string, unknown>>
  /** The instruction where a request has none; null: no system message, and the template has its own. */
  readonly instruction: string | null
}

/** A baseline, then one pair for each role that varies only its text (sentence-transformers' PAIR_ROLE_PROBES). */
const PROBES = [
  ['alpha', 'bravo'],
  ['charlie', 'bravo'],
  ['alpha', 'foxtrot'],
] as const

export class ChatPrompt {
  readonly #template: Template
  readonly #settings: PromptSettings

  /** @throws Error where the template is none */
  constructor(settings: PromptSettings) {
    this.#template = new Template(settings.template)
    mend(this.#template.parsed)
    this.#settings = settings
  }

  /** @param asked null: the model's own instruction */
  render(query: string, document: string, asked: string | null): string {
    const { format, variables, instruction } = this.#settings
    const content = (text: string) => (format === 'flat' ? text : [{ type: 'text', text }])
    const told = asked ?? instruction
    const messages = [
      ...(told ? [{ role: 'system', content: content(told) }] : []),
      { role: 'query', content: content(query) },
      { role: 'document', content: content(document) },
    ]
    const given = { add_generation_prompt: false, tools: null, documents: null, ...variables, messages }
    return this.#template.render({ ...given, ...OWN })
  }

  /** Why the template cannot carry a query and a document, found by filling it; undefined where it can. */
  failure(): string | undefined {
    let filled: string[]
    try {
      filled = PROBES.map(([query, document]) => this.render(query, document, null))
    } catch (cause) {
      return cause instanceof Error ? cause.message : String(cause)
    }
    const [base, ...varied] = filled
    const lost = ['query', 'document'].filter((_, i) => varied[i] === base)
    return lost.length > 0 ? `the ${lost.join(' and the ')} does not come into it` : undefined
  }
}

/** Names that no template has. */
const [FILTER, METHOD, CHARACTERS] = ['__python_filter_', '__python_method_', '__python_characters']
const OWN = {
  ...Object.fromEntries(Object.entries(PYTHON_FILTERS).map(([name, run]) => [FILTER + name, run])),
  ...Object.fromEntries(Object.entries(PYTHON_METHODS).map(([name, run]) => [METHOD + name, run])),
  [CHARACTERS]: characters,
}

interface Named {
  readonly type: string
  readonly value: string
}

interface FilterNode {
  readonly type: 'FilterExpression'
  readonly operand: unknown
  readonly filter: Named
}

interface MemberNode {
  readonly type: 'MemberExpression'
  readonly object: unknown
  readonly property: Named
  readonly computed: boolean
}

interface CallNode {
  readonly type: 'CallExpression'
  readonly callee: MemberNode
  readonly args: readonly unknown[]
}

/**
 * Makes of a parsed template what Jinja, in Python, would read.
 *
 * `first` and `last` of an empty list are undefined there, for which a template then has a default (`messages |
 * selectattr("role", "eq", "system") | map(attribute="content") | first | default("…")`); here they would be nothing at
 * all, and print as nothing. A place of a list that it does not have is undefined: they become `[0]` and `[-1]`.
 *
 * `trim`, `strip`, `split` and their kin take other characters for space than JavaScript does (U+FEFF is one for the one,
 * U+001F for the other), and those that they are told of; `title` and `capitalize` know words and letters otherwise: they
 * become calls of our own.
 *
 * `length` and places of a text count code points there, and here the halves of those beyond the first 65,536: both are
 * taken of its characters. (Slices count code points here as well.)
 */
function mend(node: unknown): unknown {
  if (typeof node !== 'object' || node === null) return node
  const fields = node as Record<string, unknown>
  for (const [name, value] of Object.entries(fields)) {
    if (Array.isArray(value)) fields[name] = value.map(mend)
    else if (value instanceof Map) for (const [key, entry] of value) value.set(key, mend(entry))
    else fields[name] = mend(value)
  }
  switch ((node as { type?: string }).type) {
    case 'CallExpression':
      return callMended(node as CallNode)
    case 'FilterExpression':
      return filterMended(node as FilterNode)
    case 'MemberExpression':
      return memberMended(node as MemberNode)
    default:
      return node
  }
}

function callMended(node: CallNode): unknown {
  const { callee, args } = node
  if (callee.type !== 'MemberExpression' || callee.computed || !isOne(callee.property, PYTHON_METHODS)) return node
  return callOf(METHOD + callee.property.value, [callee.object, ...args])
}

function filterMended(node: FilterNode): unknown {
  const { operand, filter } = node
  if (isOne(filter, PYTHON_FILTERS)) return callOf(FILTER + filter.value, [operand])
  if (filter.type !== 'Identifier') return node
  if (filter.value === 'length') return { ...node, operand: countable(operand) }
  if (filter.value !== 'first' && filter.value !== 'last') return node
  const property = { type: 'IntegerLiteral', value: filter.value === 'first' ? 0 : -1 }
  return { type: 'MemberExpression', object: countable(operand), property, computed: true }
}

function memberMended(node: MemberNode): unknown {
  const { object, property, computed } = node
  // A name is one of an object's, and a slice is right.
  if (!computed || property.type === 'StringLiteral' || property.type === 'SliceExpression') return node
  return { ...node, object: countable(object) }
}

/** A list of the characters where it is a text; whatever else it is. */
function countable(value: unknown) {
  const isText = { type: 'TestExpression', operand: value, negate: false, test: identifier('string') }
  return { type: 'Ternary', condition: isText, trueExpr: callOf(CHARACTERS, [value]), falseExpr: value }
}

function isOne({ type, value }: Named, names: object): boolean {
  return type === 'Identifier' && Object.hasOwn(names, value)
}

function callOf(name: string, args: readonly unknown[]) {
  return { type: 'CallExpression', callee: identifier(name), args }
}

function identifier(value: string): Named {
  return { type: 'Identifier', value }
}
