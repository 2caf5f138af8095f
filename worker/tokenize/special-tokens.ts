/** Added and special tokens: those of tokenizer.json, and what tokenizer_config.json and its companions lay over them. */
import { z } from 'zod'
import type { AddedToken } from './added-tokens.js'
import { type IdOf, type Json, type Rebuilt, tokenText } from './rebuilt-definition.js'

const flags = {
  content: z.string(),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  special: z.boolean().default(false),
  normalized: z.boolean().optional(),
}

/** As the reference makes one of an object: what is not special is normalised unless it says otherwise. */
function tokenOf({
  single_word: singleWord,
  normalized,
  ...token
}: z.output<typeof flagsSchema>): Omit<AddedToken, 'id'> {
  return { ...token, singleWord, normalized: normalized ?? !token.special }
}

const flagsSchema = z.looseObject(flags)
export const addedTokenSchema = z
  .object({ ...flags, id: z.int().nonnegative() })
  .transform(({ id, ...token }): AddedToken => ({ ...tokenOf(token), id }))

const decoderSchema = z.record(z.string().regex(/^\d+$/), flagsSchema).optional()

export interface TokenSettings {
  /** tokenizer_config.json, with special_tokens_map.json where that is read. */
  readonly settings: Json
  /** added_tokens.json of old folders: ids by token. */
  readonly legacy: Readonly<Record<string, number>>
}

/** Names that settings have for tokens: `sep_token` and the like. */
function namedTokens(settings: Json): [name: string, token: unknown][] {
  const named = Object.entries(settings).filter(
    ([name, token]) => name.endsWith('_token') && tokenText(token) !== undefined,
  )
  const { extra_special_tokens: extra, additional_special_tokens: additional } = settings
  const more = extra ?? additional ?? []
  const list: [string, unknown][] = Array.isArray(more)
    ? more.map((token) => ['', token])
    : Object.entries(more as Record<string, unknown>)
  return [...named, ...list.filter(([, token]) => tokenText(token) !== undefined)]
}

/**
 * The added tokens that the reference ends up with, and the ids of all tokens.
 *
 * @throws Error that names what cannot be read
 */
export function addTokens(
  ofFile: readonly AddedToken[],
  vocabulary: ReadonlyMap<string, number>,
  { specials, isRebuilt }: Rebuilt,
  { settings, legacy }: TokenSettings,
): { tokens: AddedToken[]; idOf: IdOf } {
  const byContent = new Map(isRebuilt ? [] : ofFile.map((token) => [token.content, token]))
  let next = vocabulary.size
  // A class that builds its own counts on from its vocabulary, and so comes to the ids of the file again.
  if (!isRebuilt) for (const { id } of ofFile) next = Math.max(next, id + 1)
  const add = (token: Omit<AddedToken, 'id'>) => {
    if (token.content === '') return
    const id = byContent.get(token.content)?.id ?? vocabulary.get(token.content) ?? next++
    byContent.set(token.content, { ...token, id })
  }
  const names = new Set(namedTokens({ ...specials, ...settings }).map(([, token]) => tokenText(token)))
  const decoder = decoderSchema.safeParse(settings.added_tokens_decoder ?? undefined)
  if (decoder.error) throw new Error('tokenizer_config.added_tokens_decoder: not tokens by their ids')
  const again = decoder.data
    ? Object.entries(decoder.data).map(([id, token]) => ({ ...tokenOf(token), id: Number(id) }))
    : [...ofFile, ...legacyTokens(legacy, names, ofFile)]
  for (const token of again.sort((a, b) => a.id - b.id))
    add({ ...token, special: token.special || names.has(token.content) })
  for (const [, token] of namedTokens(settings)) {
    const content = tokenText(token) ?? ''
    if (byContent.has(content)) continue
    const read = flagsSchema.safeParse(token)
    add(read.success ? { ...tokenOf(read.data), special: true } : plainToken(content))
  }
  // Those that only the class names: where the vocabulary lacks them, the model has no row for them either.
  for (const content of Object.values(specials)) {
    if (!byContent.has(content) && vocabulary.has(content)) add(plainToken(content))
  }
  return { tokens: [...byContent.values()], idOf: (token) => byContent.get(token)?.id ?? vocabulary.get(token) }
}

function plainToken(content: string): Omit<AddedToken, 'id'> {
  return { content, singleWord: false, lstrip: false, rstrip: false, normalized: false, special: true }
}

function legacyTokens(
  legacy: Readonly<Record<string, number>>,
  names: ReadonlySet<string | undefined>,
  ofFile: readonly AddedToken[],
): AddedToken[] {
  const known = new Set(ofFile.map(({ content }) => content))
  return Object.entries(legacy)
    .filter(([content]) => !known.has(content))
    .map(([content, id]) => ({
      ...plainToken(content),
      id,
      special: names.has(content),
      normalized: !names.has(content),
    }))
}
