/** The JSON files of model folders. Every fault is an `invalid_model` that names the file. */
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { z } from 'zod'
import { RankmillError } from '../../shared/errors.js'
import { parsePythonJson } from '../tokenize/python-json.js'

export function fault(file: string, what: string, cause?: unknown): RankmillError {
  return new RankmillError('invalid_model', `${file}: ${what}`, {}, { cause })
}

export async function readJson<T>(folder: string, name: string, schema: z.ZodType<T>): Promise<T> {
  const file = join(folder, name)
  let value: unknown
  try {
    value = parsePythonJson(await readFile(file, 'utf8'))
  } catch (cause) {
    const missing = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT'
    const what = missing
      ? 'the file is missing'
      : `the file is damaged: ${cause instanceof Error ? cause.message : cause}`
    throw fault(file, what, cause)
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw fault(file, `${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'not valid'}`)
}

/** The same; undefined where there is no such file. */
export async function readJsonIfThere<T>(folder: string, name: string, schema: z.ZodType<T>): Promise<T | undefined> {
  return (await isFile(join(folder, name))) ? await readJson(folder, name, schema) : undefined
}

export async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false
}
