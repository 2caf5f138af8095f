/**
 * The text that a model reads of a query and a document: its chat template, filled as sentence-transformers fills it
 * (`InputFormatter.pair_to_messages`, `prepend_prompt_to_messages`): one message a role, the instruction as the system's.
 */
import { Template } from '@huggingface/jinja'
import { PYTHON_STRINGS, type PythonString } from './python-strings.js'

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
const PREFIX = '__python_'
const OWN = Object.fromEntries(Object.entries(PYTHON_STRINGS).map(([name, run]) => [PREFIX + name, run]))

interface Named {
  readonly type: string
  readonly value: string
}

interface FilterNode {
  readonly type: 'FilterExpression'
  readonly operand: unknown
  readonly filter: Named
}

interface CallNode {
  readonly type: 'CallExpression'
  readonly callee: {
    readonly type: string
    readonly object: unknown
    readonly property: Named
    readonly computed: boolean
  }
  readonly args: readonly unknown[]
}

/**
 * Makes of a parsed template what Jinja, in Python, would read.
 *
 * `first` and `last` of an empty list are undefined there, for which a template then has a default (`messages |
 * selectattr("role", "eq", "system") | map(attribute="content") | first | default("…")`); here they would be nothing at
 * all, and print as nothing. A place of a list that it does not have is undefined: they become `[0]` and `[-1]`.
 *
 * `trim`, `strip` and their kin leave out other characters than JavaScript does (U+FEFF is one for the one, U+001F for the
 * other), and those that they are told of: they become calls of our own.
 */
function mend(node: unknown): unknown {
  if (typeof node !== 'object' || node === null) return node
  const fields = node as Record<string, unknown>
  for (const [name, value] of Object.entries(fields)) {
    if (Array.isArray(value)) fields[name] = value.map(mend)
    else if (value instanceof Map) for (const [key, entry] of value) value.set(key, mend(entry))
    else fields[name] = mend(value)
  }
  const { type } = node as { type?: string }
  if (type === 'CallExpression') {
    const { callee, args } = node as CallNode
    if (callee.type !== 'MemberExpression' || callee.computed) return node
    return isOwn(callee.property) ? callOf(callee.property.value, [callee.object, ...args]) : node
  }
  if (type !== 'FilterExpression') return node
  const { operand, filter } = node as FilterNode
  if (isOwn(filter)) return callOf(filter.value, [operand])
  if (filter.type !== 'Identifier' || (filter.value !== 'first' && filter.value !== 'last')) return node
  const property = { type: 'IntegerLiteral', value: filter.value === 'first' ? 0 : -1 }
  return { type: 'MemberExpression', object: operand, property, computed: true }
}

function isOwn(node: Named): node is Named & { value: PythonString } {
  return node.type === 'Identifier' && Object.hasOwn(PYTHON_STRINGS, node.value)
}

function callOf(name: PythonString, args: readonly unknown[]) {
  return { type: 'CallExpression', callee: { type: 'Identifier', value: PREFIX + name }, args }
}
