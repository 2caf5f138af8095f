/** How a file holds records, by its name. */

export type RecordFormat = 'jsonl' | 'csv' | 'tsv' | 'parquet'

/** Between the columns of a table. */
export const DELIMITERS = { csv: ',', tsv: '\t' } as const

const ENDINGS: Readonly<Record<string, RecordFormat>> = {
  '.csv': 'csv',
  '.tsv': 'tsv',
  '.parquet': 'parquet',
}

/** `.csv`, `.tsv` (compressed or not) and `.parquet`; anything else is JSON lines. */
export function recordFormatOf(name: string): RecordFormat {
  const plain = name.replace(/\.(gz|zst)$/i, '').toLowerCase()
  const ending = Object.keys(ENDINGS).find((candidate) => plain.endsWith(candidate))
  return (ending && ENDINGS[ending]) || 'jsonl'
}
