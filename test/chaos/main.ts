/** `npm run test:chaos`: at least 50 kills over a file of 5,000 requests; `-- --requests N --kills N --seed N`. */
import { parseArgs } from 'node:util'
import { chaos } from './chaos.js'

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '5000' },
    kills: { type: 'string', default: '50' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const log = (line: string) => process.stderr.write(`${line}\n`)
log(`chaos: seed ${values.seed}`)
const outcome = await chaos({
  requests: Number(values.requests),
  kills: Number(values.kills),
  seed: Number(values.seed),
  log,
})
const { kills, lines, seconds, same, folder } = outcome
process.stdout.write(
  `${lines} lines after ${JSON.stringify(kills)} kills in ${Math.round(seconds)} s: ` +
    `${same ? 'byte for byte the undisturbed output' : `DIFFERENT from the undisturbed output, see ${folder}`}\n`,
)
process.exitCode = same ? 0 : 1
