/**
 * `npm run test:chaos`: 60 faults over a file of 5,000 requests; `-- --requests N --faults N --seed N`, `--sentinel` on
 * servers that sentinels watch, `--shards N` in a fleet of several, `--fake` with a model that costs nothing for the file
 * (for volume: 100,000 and 1,000).
 */
import { parseArgs } from 'node:util'
import { chaos } from './chaos.js'

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '5000' },
    faults: { type: 'string', default: '60' },
    sentinel: { type: 'boolean', default: false },
    shards: { type: 'string', default: '1' },
    fake: { type: 'boolean', default: false },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const log = (line: string) => process.stderr.write(`${line}\n`)
log(`chaos: seed ${values.seed}`)
const outcome = await chaos({
  requests: Number(values.requests),
  faults: Number(values.faults),
  seed: Number(values.seed),
  redis: values.sentinel ? 'sentinel' : 'one',
  shards: Number(values.shards),
  isFake: values.fake,
  log,
})
const { faults, repairs, lines, seconds, same, folder, answered, compared, wrong } = outcome
process.stdout.write(
  `${lines} lines after ${JSON.stringify(faults)} and ${repairs} repairs of its data in ${Math.round(seconds)} s: ` +
    `${same ? 'byte for byte the undisturbed output' : `DIFFERENT from the undisturbed output, see ${folder}`}\n` +
    `${answered} requests of two producers, ${compared} compared with undisturbed ones: ` +
    `${wrong.length === 0 ? 'each has one answer, the same' : `WRONG: ${wrong.join('; ')}`}\n`,
)
process.exitCode = same && wrong.length === 0 ? 0 : 1
