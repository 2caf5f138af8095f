/** The rows of bench/gpu.sh as tables: `node bench/gpu-table.mjs FOLDER`. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const [folder = '.cache/gpu/out'] = process.argv.slice(2)
const lines = readFileSync(join(folder, 'rows.jsonl'), 'utf8').split('\n')
const rows = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))
const of = (what) => rows.filter((row) => row.what === what)
const whole = (value) => (value === undefined ? '-' : value < 10 ? value.toFixed(1) : String(Math.round(value)))
const share = (a, b) => (a && b ? (a / b).toFixed(2) : '-')
const show = (cells, widths) => console.log(cells.map((cell, i) => String(cell).padEnd(widths[i])).join(' '))

console.log(readFileSync(join(folder, 'machine.txt'), 'utf8').trim())
for (const { device, fault, halves } of of('device'))
  console.log(`device ${device}: ${fault ?? (halves ? 'computes, fp16 too' : 'computes, not fp16')}`)
for (const { model, dtype, device, farthest, spread, equal } of of('correct'))
  console.log(
    `scores ${model} ${dtype} ${device}: ${equal ? 'those of the CPU' : 'NOT those of the CPU'} (farthest ${farthest.toExponential(1)} of a spread of ${spread.toFixed(2)})`,
  )

const widths = [16, 6, 7, 7, 10, 10, 10, 8, 10, 10, 8]
console.log(
  '\npairs a second; "texts" is from texts to scores in one process, beside sentence-transformers on the same ones',
)
show(
  ['model', 'format', 'device', 'tokens', 'bare', 'engine', 'engine x2', '/ bare', 'texts', 's-t', 'texts/s-t'],
  widths,
)
const keys = new Map(
  rows
    .filter((r) => r.tokens && r.model && !r.workers && r.device)
    .map((r) => [`${r.model} ${r.dtype} ${r.tokens}`, r]),
)
for (const { model, dtype, tokens } of keys.values())
  for (const device of new Set(of('engine').map((row) => row.device))) {
    const rate = (what, sessions, on = device) =>
      rows.find(
        (r) =>
          r.what === what &&
          r.model === model &&
          r.dtype === dtype &&
          r.tokens === tokens &&
          (!on || r.device === on) &&
          (!sessions || r.sessions === sessions),
      )?.pairsPerSecond
    const [bare, one, two, texts, peer] = [
      rate('bare', 1),
      rate('engine', device === 'cpu' ? 0 : 1),
      device === 'cpu' ? undefined : rate('engine', 2),
      rate('texts'),
      rate('sentence-transformers', 0, ''),
    ]
    if (one ?? two)
      show(
        [
          model,
          dtype,
          device,
          tokens,
          ...[bare, one, two].map(whole),
          share(Math.max(one ?? 0, two ?? 0), bare),
          whole(texts),
          whole(peer),
          share(texts, peer),
        ],
        widths,
      )
  }
for (const { model, dtype, device, workers, pairsPerSecond, msAlone } of of('workers'))
  console.log(
    `${workers} worker(s) through Redis, ${model} ${dtype} ${device}, 200 tokens: ${whole(pairsPerSecond)} pairs/s; 100 pairs alone ${msAlone} ms`,
  )
const load = join(folder, 'load.csv')
if (existsSync(load)) {
  const busy = readFileSync(load, 'utf8')
    .split('\n')
    .map((line) => Number(line.split(',')[1]))
    .filter(Number.isFinite)
  const active = busy.filter((value) => value > 5)
  if (active.length)
    console.log(
      `GPU busy in the half seconds that used it: mean ${whole(active.reduce((a, b) => a + b, 0) / active.length)} %, ${active.filter((v) => v > 90).length} of ${active.length} above 90 %`,
    )
}
const steps = join(folder, 'steps.txt')
if (existsSync(steps)) console.log(`\n${readFileSync(steps, 'utf8').trim()}`)
