/** Keeps a run to the models that it began with: one fingerprint for each name that requests are answered by. */
import { RankmillError } from '../../shared/errors.js'

/** What a result says of the model that scored it. */
export interface ScoredBy {
  readonly model: string
  readonly dtype?: string | undefined
  /** Of everything that scores depend on; results of workers that do not tell are not compared. */
  readonly fingerprint?: string | undefined
}

export interface PinnedModel {
  readonly fingerprint: string
  readonly dtype?: string | undefined
}

/** Something else than what the run began with, which it was told to go on with. */
export interface RunChange {
  /** `model NAME`, `corpus NAME`, or an option. */
  readonly what: string
  readonly from: unknown
  readonly to: unknown
  /** Answers that were written before. */
  readonly after: number
}

export class ModelPins {
  readonly #pinned: Map<string, PinnedModel>
  readonly #onNew: (change?: Omit<RunChange, 'after'>) => void
  readonly #mayChange: boolean

  /** @param onNew told when the pins are others than before, and what changed in the course of the run */
  constructor(
    pinned: Readonly<Record<string, PinnedModel>>,
    mayChange: boolean,
    onNew: (change?: Omit<RunChange, 'after'>) => void,
  ) {
    this.#pinned = new Map(Object.entries(pinned))
    this.#mayChange = mayChange
    this.#onNew = onNew
  }

  toJSON(): Record<string, PinnedModel> {
    return Object.fromEntries(this.#pinned)
  }

  /**
   * Whether an answer is by the model that the run began with; the first of a name says which that is.
   *
   * @throws RankmillError `model_changed`
   */
  check({ model, dtype, fingerprint }: ScoredBy): void {
    if (fingerprint === undefined) return
    const pinned = this.#pinned.get(model)
    if (pinned?.fingerprint === fingerprint) return
    const now: PinnedModel = dtype === undefined ? { fingerprint } : { fingerprint, dtype }
    if (pinned && !this.#mayChange) {
      const message = `the run began with model "${model}" ${shown(pinned)}, and the workers answer with ${shown(now)}`
      throw new RankmillError('model_changed', message, { param: 'model' })
    }
    this.#pinned.set(model, now)
    this.#onNew(pinned ? { what: `model ${model}`, from: shown(pinned), to: shown(now) } : undefined)
  }
}

function shown({ fingerprint, dtype }: PinnedModel): string {
  return `${dtype === undefined ? '' : `${dtype} `}${fingerprint.slice(0, 12)}`
}
