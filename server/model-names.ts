/** Other names for models: clients that cannot be told another one keep theirs. */
import { RankmillError } from '../shared/errors.js'

const REST = '*'

export class ModelNames {
  readonly #aliases: ReadonlyMap<string, string>

  /** @param aliases `name=model,*=model` @throws RankmillError `invalid_configuration` */
  constructor(aliases: string) {
    const pairs = aliases
      .split(',')
      .map((pair) => pair.trim())
      .filter((pair) => pair !== '')
    this.#aliases = new Map(
      pairs.map((pair) => {
        const [name, model, ...more] = pair.split('=').map((part) => part.trim())
        if (name && model && more.length === 0) return [name, model]
        const message = `--model-aliases: must be name=model divided by commas, got "${pair}"`
        throw new RankmillError('invalid_configuration', message, { param: 'modelAliases' })
      }),
    )
  }

  /** Names that were given to models, but for the one that stands for all others. */
  get names(): string[] {
    return [...this.#aliases.keys()].filter((name) => name !== REST)
  }

  /** @param served names that workers serve, asked only where it matters */
  async resolve(name: string | undefined, served: () => Promise<readonly string[]>): Promise<string | undefined> {
    if (name === undefined) return undefined
    const other = this.#aliases.get(name)
    if (other !== undefined) return other
    const rest = this.#aliases.get(REST)
    return rest === undefined || (await served()).includes(name) ? name : rest
  }
}
