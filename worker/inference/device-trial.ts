/**
 * Entry of a process that tries a device and says how it went: a driver that crashes or hangs takes this process along and
 * nothing else. The graph is one MatMul of [2, 2], so what is tried is the provider, its driver and its arithmetic.
 */
import { env, InferenceSession, Tensor } from 'onnxruntime-node'
import { floatsOf } from './half.js'

/** What it says; `halves`: whether fp16 is computed. */
export type TrialReport =
  | { readonly usable: true; readonly halves: boolean }
  | { readonly usable: false; readonly reason: string }

/** a x a, as ONNX files of IR 8 and opset 17. */
const GRAPHS = {
  float32: 'CAg6RAoRCgFhCgFhEgFiIgZNYXRNdWwSBXByb2JlWhMKAWESDgoMCAESCAoCCAIKAggCYhMKAWISDgoMCAESCAoCCAIKAggCQgQKABAR',
  float16: 'CAg6RAoRCgFhCgFhEgFiIgZNYXRNdWwSBXByb2JlWhMKAWESDgoMCAoSCAoCCAIKAggCYhMKAWISDgoMCAoSCAoCCAIKAggCQgQKABAR',
} as const
const ASKED = { float32: Float32Array.of(1, 2, 3, 4), float16: Uint16Array.of(0x3c00, 0x4000, 0x4200, 0x4400) } as const
const EXPECTED = [7, 10, 15, 22]

process.on('disconnect', () => process.exit(0))
const [device = 'cpu'] = process.argv.slice(2)
env.logLevel = 'fatal'
report(
  await multiply('float32').then(
    async () => ({
      usable: true,
      halves: await multiply('float16').then(
        () => true,
        () => false,
      ),
    }),
    (cause) => ({ usable: false, reason: cause instanceof Error ? cause.message : String(cause) }),
  ),
)

async function multiply(type: keyof typeof GRAPHS): Promise<void> {
  const options = { executionProviders: [device], logSeverityLevel: 4 } as const
  const session = await InferenceSession.create(Buffer.from(GRAPHS[type], 'base64'), options)
  const { b } = await session.run({ a: new Tensor(type, ASKED[type], [2, 2]) })
  const found = b instanceof Tensor ? [...floatsOf(b)] : []
  if (found.some((value, i) => value !== EXPECTED[i]) || found.length !== EXPECTED.length)
    throw new Error(`a product of two matrices came out as ${found.join(', ')}, not ${EXPECTED.join(', ')}`)
}

function report(found: TrialReport): void {
  // Drivers may crash while they are unloaded: what was said by then counts.
  process.send?.(found, () => process.exit(0))
}
