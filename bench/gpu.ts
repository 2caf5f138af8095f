/**
 * The steps of bench/gpu.sh, each a process of its own, so that a driver that crashes ends a step and no more. Rows go to
 * standard output as JSON lines, what else there is to say to standard error.
 *
 *   node dist/bench/gpu.js texts FILE [pairs]                      pairs of 64, 200 and 500 tokens, for both sides
 *   node dist/bench/gpu.js reference FILE MODEL…                   fp32 scores on the CPU, to be compared with
 *   node dist/bench/gpu.js correct DEVICE FILE                     the device's fp32 and fp16 scores against these
 *   node dist/bench/gpu.js speed DEVICE DTYPE FOLDER TEXTS [ms] [tokens a call, …] [lengths, …]
 *   node dist/bench/gpu.js workers DEVICE DTYPE MODEL TEXTS COUNT [requests]
 */
import type { Device, Dtype } from '../worker/model/model.js'
import { compare, writeReference } from './gpu/correctness.js'
import { measureFleet, serveFleet } from './gpu/fleet.js'
import { measureDevice } from './gpu/speed.js'
import { writeTexts } from './gpu/texts.js'

const [step, ...args] = process.argv.slice(2)
const [first = '', second = '', third = '', fourth = '', ...rest] = args
// The last step starts its workers by this file.
if (process.send) await serveFleet()
else if (step === 'texts') await writeTexts(first, Number(second || 2048))
else if (step === 'reference') await writeReference(first, args.slice(1))
else if (step === 'correct') await compare(first as Device, second)
else if (step === 'speed') await measureDevice(first as Device, second as Dtype, third, fourth, rest)
else if (step === 'workers') await measureFleet(args)
else throw new Error('texts, reference, correct, speed or workers')
