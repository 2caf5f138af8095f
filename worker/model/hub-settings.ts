/** The small files of a hub's model that transformers.js does not ask for, and that scores depend on all the same. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { TOKENIZER_FILES } from '../tokenize/tokenizer.js'
import { writeWhole } from './bound-files.js'
import { isFile } from './json-file.js'
import { SENTENCE_TRANSFORMERS_FILES } from './sentence-transformers.js'

/** Says that all of them have been asked for: most models have only some. */
const MARK = '.rankmill-settings'

const modules = z.array(z.looseObject({ path: z.string().regex(/^[\w.-]*$/) }))

/** Whether an earlier download asked for them. */
export function hasSettings(folder: string): Promise<boolean> {
  return isFile(join(folder, MARK))
}

/**
 * @param hub with a slash at its end
 * @throws Error that says which file could not be had; TypeError where the hub does not answer
 */
export async function fetchSettings(hub: string, id: string, revision: string, folder: string): Promise<void> {
  const place = `${hub}${id}/resolve/${encodeURIComponent(revision)}/`
  for (const name of [...TOKENIZER_FILES, ...SENTENCE_TRANSFORMERS_FILES]) await fetchFile(place, name, folder)
  const listed = await readFile(join(folder, 'modules.json'), 'utf8').catch(() => '[]')
  for (const { path } of modules.safeParse(JSON.parse(listed)).data ?? []) {
    if (path !== '' && path !== '..') await fetchFile(place, `${path}/config.json`, folder)
  }
  await writeWhole(join(folder, MARK), '')
}

async function fetchFile(place: string, name: string, folder: string): Promise<void> {
  const file = join(folder, name)
  if (await isFile(file)) return
  const { HF_TOKEN: token } = process.env
  const response = await fetch(place + name, token ? { headers: { authorization: `Bearer ${token}` } } : {})
  if (response.status === 404) return
  if (!response.ok) throw new Error(`${name}: the hub answers ${response.status}`)
  await writeWhole(file, await response.text())
  // A cache that cannot be written to must not pass for a model without settings.
  if (!(await isFile(file))) throw new Error(`${file} cannot be written`)
}
