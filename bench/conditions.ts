/** What a measurement was taken under; printed with every figure. */
import { createRequire } from 'node:module'
import { availableParallelism, cpus, loadavg } from 'node:os'

const require = createRequire(import.meta.url)

export function versionOf(name: string): string {
  return (require(`${name}/package.json`) as { version: string }).version
}

export function printConditions(title: string, extra: Record<string, unknown> = {}): void {
  const conditions = {
    cpu: cpus()[0]?.model.trim(),
    cores: availableParallelism(),
    load: loadavg().map((l) => Number(l.toFixed(1))),
    node: process.versions.node,
    bullmq: versionOf('bullmq'),
    onnxruntime: versionOf('onnxruntime-node'),
    date: new Date().toISOString().slice(0, 10),
    ...extra,
  }
  console.log(`# ${title}`)
  for (const [key, value] of Object.entries(conditions))
    console.log(`#   ${key}: ${typeof value === 'object' ? JSON.stringify(value) : value}`)
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0
}
