/**
 * Writes the reference pages that are made from the code: docs/configuration.md, docs/errors.md, docs/metrics.md.
 * `npm run docs` writes them, `node scripts/docs.mjs --check` fails where they differ (a test runs that).
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { exitCodeOf } from '../dist/cli/exit.js'
import { WorkerMetrics } from '../dist/monitoring/metrics.js'
import { collectQueues } from '../dist/monitoring/queue-collector.js'
import { HttpMetrics } from '../dist/server/http-metrics.js'
import { ERRORS, RankmillError } from '../dist/shared/errors.js'
import { envOf, flagOf, OPTIONS } from '../dist/shared/options.js'

const GENERATED = '<!-- made by `npm run docs`: do not edit -->'
const cell = (text) => String(text).replaceAll('|', '\\|')
const table = (head, rows) =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.map(cell).join(' | ')} |`).join('\n')

function configuration() {
  const groups = {
    redis: 'Redis',
    producer: 'Producers',
    batch: 'Batch runs',
    worker: 'Workers',
    server: 'API server',
    models: 'Quantising models',
    monitoring: 'Metrics, health and logs',
  }
  const sections = Object.entries(groups).map(([group, title]) => {
    const rows = Object.entries(OPTIONS)
      .filter(([, spec]) => spec.group === group)
      .map(([name, spec]) => [
        `\`${name}\``,
        `\`--${spec.default === true ? 'no-' : ''}${flagOf(name)}\``,
        [envOf(name), spec.env]
          .filter(Boolean)
          .map((env) => `\`${env}\``)
          .join(' or '),
        `\`${JSON.stringify(spec.default)}\``,
        spec.help,
      ])
    return `## ${title}\n\n${table(['Library', 'Flag', 'Environment', 'Default', 'What it is'], rows)}`
  })
  const intro =
    'A value comes from the library call or the flag, else from the environment, else from the default. ' +
    'A bad value is refused with its name, its bounds and the value.'
  return `# Configuration\n\n${GENERATED}\n\n${intro}\n\n${sections.join('\n\n')}\n`
}

function errors() {
  const rows = Object.entries(ERRORS).map(([code, { status, retryable, advice }]) => [
    `\`${code}\``,
    status,
    retryable ? 'yes' : 'no',
    exitCodeOf(new RankmillError(code, '')),
    advice,
  ])
  const intro =
    'Every error is a `RankmillError` with a `code`, a `message` that names the field, the limit and the value, and ' +
    '`details` (`param`, and where it applies `retryAfterMs` or `index`).'
  return `# Errors\n\n${GENERATED}\n\n${intro}\n\n${table(['Code', 'HTTP status', 'Can a retry help?', 'Exit code', 'What to do'], rows)}\n`
}

function metrics() {
  const { registry } = new WorkerMetrics(
    () => 0,
    () => true,
  )
  // Nothing is asked of it: this one does not report.
  collectQueues(registry, [], () => false)
  const rows = [registry, new HttpMetrics(false).registry]
    .flatMap((each) => each.getMetricsAsArray())
    .filter(({ name }) => name.startsWith('rankmill_'))
    .map(({ name, type, labelNames = [], help }) => [
      `\`${name}\``,
      type,
      labelNames.map((label) => `\`${label}\``).join(', '),
      help,
    ])
  const intro =
    'Served by every worker process at `/metrics`, and for all workers of `rankmill up` together at its port. The queue’s ' +
    'gauges are reported by one process of a fleet only, so that they can be summed; the label `shard` is there where a fleet has several (`shards`). Node’s own `process_` and `nodejs_` ' +
    'metrics come with them. `/healthz` is 503 where work is held and no batch finishes (`livenessMs`), `/readyz` where ' +
    'the model is not loaded or Redis is away.'
  return `# Metrics\n\n${GENERATED}\n\n${intro}\n\n${table(['Name', 'Type', 'Labels', 'What it is'], rows)}\n`
}

const pages = { 'configuration.md': configuration(), 'errors.md': errors(), 'metrics.md': metrics() }
for (const [name, text] of Object.entries(pages)) {
  const file = fileURLToPath(new URL(`../docs/${name}`, import.meta.url))
  if (!process.argv.includes('--check')) writeFileSync(file, text)
  else if (readFileSync(file, 'utf8') !== text) {
    process.stderr.write(`docs/${name} differs from the code: run \`npm run docs\`\n`)
    process.exitCode = 1
  }
}
