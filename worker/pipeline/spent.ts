/** What scoring some pairs took. */
export interface Spent {
  /** Pairs that went through the model, windows counting one by one. */
  readonly pairs: number
  readonly tokens: number
  readonly tokenizeMs: number
  /** Mean wait of a pair for room in the worker. */
  readonly budgetWaitMs: number
  /** Mean wait of a pair for its batch. */
  readonly batchWaitMs: number
  readonly inferenceMs: number
}

export const NOTHING_SPENT: Spent = {
  pairs: 0,
  tokens: 0,
  tokenizeMs: 0,
  budgetWaitMs: 0,
  batchWaitMs: 0,
  inferenceMs: 0,
}

/** Of pairs that were scored one after the other, by different models: their times add up. */
export function addSpent(a: Spent, b: Spent): Spent {
  return {
    pairs: a.pairs + b.pairs,
    tokens: a.tokens + b.tokens,
    tokenizeMs: a.tokenizeMs + b.tokenizeMs,
    budgetWaitMs: a.budgetWaitMs + b.budgetWaitMs,
    batchWaitMs: a.batchWaitMs + b.batchWaitMs,
    inferenceMs: a.inferenceMs + b.inferenceMs,
  }
}

/** Of blocks of the same candidates: waits are means of their pairs. */
export function besideSpent(a: Spent, b: Spent): Spent {
  const mean = (one: number, other: number) => (one * a.pairs + other * b.pairs) / Math.max(1, a.pairs + b.pairs)
  return {
    ...addSpent(a, b),
    budgetWaitMs: mean(a.budgetWaitMs, b.budgetWaitMs),
    batchWaitMs: mean(a.batchWaitMs, b.batchWaitMs),
  }
}
