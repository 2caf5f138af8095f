import { describe, expect, it } from 'vitest'
import { RankmillError } from '../../../shared/errors.js'
import { envOf, flagOf, OPTIONS, resolveOptions } from '../../../shared/options.js'

describe('resolveOptions', () => {
  it('fills everything with the documented defaults', () => {
    const options = resolveOptions({}, {})
    for (const [name, spec] of Object.entries(OPTIONS)) expect(options[name as keyof typeof options]).toBe(spec.default)
    expect(Object.isFrozen(options)).toBe(true)
  })

  it('accepts every default as a given value, and as text from the environment', () => {
    for (const [name, spec] of Object.entries(OPTIONS)) {
      const value = spec.default
      expect(resolveOptions({ [name]: value }, {})).toMatchObject({ [name]: value })
      expect(resolveOptions({}, { [envOf(name)]: String(value) })).toMatchObject({ [name]: value })
    }
  })

  it('prefers what is given to the environment, and its own variable to a shared one', () => {
    const env = { RANKMILL_REDIS: 'redis://own', REDIS_URL: 'redis://shared' }
    expect(resolveOptions({ redis: 'redis://given' }, env).redis).toBe('redis://given')
    expect(resolveOptions({}, env).redis).toBe('redis://own')
    expect(resolveOptions({}, { REDIS_URL: 'redis://shared' }).redis).toBe('redis://shared')
  })

  it.each([
    [{ maxDocuments: 0 }, {}, /--max-documents: .*at least 1; got 0/],
    [{ maxDocuments: 'many' }, {}, /--max-documents: .*number.*got "many"/],
    [{ maxDocuments: Number.NaN }, {}, /--max-documents/],
    [{ concurrency: 1.5 }, {}, /--concurrency: .*whole number/],
    [{ metricsPort: 70_000 }, {}, /--metrics-port: .*at most 65535; got 70000/],
    [{ dtype: 'int3' }, {}, /--dtype: .*fp32.*got "int3"/],
    [{ calibrate: 'perhaps' }, {}, /--calibrate: .*boolean/],
    [{ queue: 'a b' }, {}, /--queue/],
    [{}, { RANKMILL_THREADS: '-1' }, /RANKMILL_THREADS: .*at least 0; got "-1"/],
    [{ nonsense: 1 }, {}, /unknown option "nonsense"/],
  ])('refuses %j with %j', (given, env, message) => {
    const resolve = () => resolveOptions(given, env)
    expect(resolve).toThrow(RankmillError)
    expect(resolve).toThrow(message)
  })

  it('does not print the password of a Redis URL', () => {
    expect(() => resolveOptions({ redis: '' }, {})).toThrow(/hidden/)
  })

  it('names units in every option that has one', () => {
    for (const [name, spec] of Object.entries(OPTIONS)) {
      if (spec.value === '<ms>') expect(name).toMatch(/Ms$/)
      if (spec.value === '<bytes>') expect(name).toMatch(/Bytes$/)
      expect(flagOf(name)).toMatch(/^[a-z-]+$/)
    }
  })
})
