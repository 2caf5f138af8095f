/**
 * Which tokeniser class `transformers` (5) takes for a folder. It matters, because most classes do not read the pipeline of
 * tokenizer.json: they build their own around its vocabulary (`rebuilt-definition.ts`). After `AutoTokenizer.from_pretrained`.
 */
import { CLASS_NAMES, MODEL_TYPE_CLASSES, OVERRULED_MODEL_TYPES, TYPED_CLASSES } from './tokenizer-class-table.js'

/** The class that reads tokenizer.json as it is. */
export const PLAIN_CLASS = 'TokenizersBackend'
/** Stands in the table for classes that read no tokenizer.json. */
const NO_FILE = '-'

function pairs(table: string): Map<string, string> {
  const words = table.split(' ')
  return new Map(words.flatMap((word, i) => (i % 2 === 0 ? [[word, words[i + 1] ?? ''] as const] : [])))
}

const OF_MODEL_TYPE = pairs(MODEL_TYPE_CLASSES)
const OF_NAME = pairs(CLASS_NAMES)
const TYPED = new Set(TYPED_CLASSES.split(' '))
const OVERRULED = new Set(OVERRULED_MODEL_TYPES.split(' '))

export interface NamedClasses {
  /** Of config.json; undefined where there is none. */
  readonly modelType: string | undefined
  /** `tokenizer_class` of tokenizer_config.json, else that of config.json. */
  readonly named: string | undefined
  /** tokenizer_config.json names code of its own for the tokeniser (`auto_map`). */
  readonly hasOwnCode: boolean
  /** The text `"ByteLevel"` is in tokenizer.json. */
  readonly isByteLevel: boolean
}

const bare = (name: string) => name.replace(/Fast$/, '')

/**
 * @returns the class by its own name
 * @throws Error for a class that does not read tokenizer.json
 */
export function tokenizerClassOf({ modelType = '', named, hasOwnCode, isByteLevel }: NamedClasses): string {
  const registered = OF_MODEL_TYPE.get(modelType)
  if (named === undefined) return checked(registered ?? PLAIN_CLASS)
  const overruled = OVERRULED.has(modelType)
  // Llama 3 and its kin name a class that would take their bytes for words.
  if (!hasOwnCode && bare(named) === 'LlamaTokenizer' && !overruled && isByteLevel) return PLAIN_CLASS
  if (!hasOwnCode && registered !== undefined && bare(registered) !== bare(named)) {
    if (registered === PLAIN_CLASS) return PLAIN_CLASS
    return checked(overruled ? registered : named)
  }
  return checked(bare(named))
}

function checked(name: string): string {
  const found = OF_NAME.get(name) ?? OF_NAME.get(`${name}Fast`) ?? OF_NAME.get(bare(name)) ?? PLAIN_CLASS
  if (found === NO_FILE) throw new Error(`tokenizer_class ${name} does not read tokenizer.json, and is not known`)
  return found
}

/**
 * Whether what the class gives has token types, where tokenizer_config.json does not say (`model_input_names`). The plain class
 * gave them in transformers 4, and gives none in 5, whatever the post-processor says: a graph that asks for them is given zeros.
 */
export function givesTokenTypes(name: string): boolean {
  return TYPED.has(name)
}
