/** Body schemas that the OpenAPI document tells of while the route reads the body itself: a stream, or a dialect's. */

import { z } from 'zod'

/** An answer that is not JSON. */
export function told(type: string, description: string) {
  return {
    description,
    content: { [type]: { schema: type === 'text/event-stream' ? z.any() : z.string().meta({ format: 'binary' }) } },
  }
}

const marked = new WeakSet<object>()

/** Marks a schema, which is then not used to check anything. */
export function toldOnly<S extends object>(schema: S): S {
  marked.add(schema)
  return schema
}

export function isToldOnly(schema: unknown): boolean {
  return typeof schema === 'object' && schema !== null && marked.has(schema)
}
