/**
 * Where models run: which devices this machine has, found by trying them, and what `auto` comes to. A device counts as there
 * once it has multiplied two matrices right, in a process of its own.
 */
import { fork } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { RankmillError } from '../../shared/errors.js'
import type { Device } from '../model/model.js'
import type { TrialReport } from './device-trial.js'
import type { EngineLog } from './engine.js'
import { withoutTelemetry } from './telemetry.js'

/** A device that was tried. */
export interface TriedDevice {
  readonly device: Device
  /** Why it cannot be used here, in a line; undefined: it can. */
  readonly fault?: string
  /** What to do about it. */
  readonly fix?: string
  /** Whether it computes fp16. */
  readonly halves: boolean
}

/** Starting a driver and compiling two shaders; a software renderer takes seconds. */
const TRIAL_MS = 60_000
const ENTRY = fileURLToPath(new URL('./device-trial.js', import.meta.url))
/** Files by which Linux shows a GPU worth computing on: NVIDIA's, AMD's, and that of Windows below WSL. */
const GPU_FILES = ['/dev/nvidia0', '/dev/kfd', '/dev/dxg']
/**
 * What `auto` tries where there is a GPU. Not WebGPU: it may come to a software driver beside the GPU's own, on which attention is
 * wrong (bench/gpu.md), and who names no device wants no start that is refused.
 */
const GPU_DEVICES = ['cuda'] as const

/** Tries a device: a second or so, less than a minute in any case. */
export async function tryDevice(device: Device): Promise<TriedDevice> {
  if (device === 'cpu') return { device, halves: true }
  const report = await trial(device)
  if (report.usable) return { device, halves: report.halves }
  return { device, halves: false, ...explained(device, report.reason) }
}

/**
 * The device that options come to: the one that is named, if it can be used; of `auto` a GPU that shows itself and passes
 * its trial, else the CPU. Where there is a GPU, what `auto` came to is logged, and why not the others.
 *
 * @throws RankmillError `invalid_configuration`: the named device cannot be used here, with the fix
 */
export async function chooseDevice(
  wanted: Device | 'auto',
  log: EngineLog,
  hasGpu: () => boolean = showsGpu,
): Promise<TriedDevice> {
  if (wanted !== 'auto') {
    const tried = await tryDevice(wanted)
    if (tried.fault === undefined) return tried
    const message = `device: "${wanted}" cannot be used on this machine: ${tried.fault}${tried.fix ? `; ${tried.fix}` : ''}`
    throw new RankmillError('invalid_configuration', message, { param: 'device' })
  }
  const faults: Record<string, string> = {}
  for (const device of hasGpu() ? GPU_DEVICES : []) {
    const tried = await tryDevice(device)
    if (tried.fault === undefined) {
      log.info({ device, halves: tried.halves, ...faults }, 'device chosen')
      return tried
    }
    faults[device] = tried.fault
  }
  if (Object.keys(faults).length > 0)
    log.warn({ device: 'cpu', ...faults }, 'device chosen: the CPU, because this machine’s GPU cannot be used')
  return { device: 'cpu', halves: true }
}

/** Whether the machine shows a GPU to this process; of other systems than Linux `auto` makes no use of theirs. */
export function showsGpu(): boolean {
  return GPU_FILES.some((file) => existsSync(file))
}

async function trial(device: Device): Promise<TrialReport> {
  const child = fork(ENTRY, [device], {
    execArgv: [],
    env: withoutTelemetry(),
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  let said = ''
  child.stderr?.on('data', (text) => {
    said = `${said}${text}`.slice(-2000)
  })
  return await new Promise<TrialReport>((resolve) => {
    const end = (report: TrialReport) => {
      clearTimeout(timer)
      child.kill('SIGKILL')
      resolve(report)
    }
    const timer = setTimeout(
      () => end({ usable: false, reason: `it did not answer within ${TRIAL_MS / 1000} s` }),
      TRIAL_MS,
    )
    child.once('message', (report) => {
      const found = report as TrialReport
      // The loader of Vulkan says what it misses on standard error only.
      end(found.usable || !said ? found : { ...found, reason: `${found.reason}\n${said}` })
    })
    child.once('error', (error) => end({ usable: false, reason: error.message }))
    child.once('exit', (code, signal) =>
      end({ usable: false, reason: `its trial ended with ${signal ?? code}\n${said}` }),
    )
  })
}

/** What native libraries say, as what it means and what to do. */
export function explained(device: Device, reason: string): { fault: string; fix: string } {
  const first = reason.split('\n')[0]?.trim() ?? ''
  if (device === 'webgpu') {
    if (/libvulkan\.so/.test(reason))
      return {
        fault: "Vulkan's loader (libvulkan.so.1) is not installed",
        fix: "install it and the GPU's driver (Debian, Ubuntu: apt-get install libvulkan1)",
      }
    if (/adapter|RequestAdapter/i.test(reason))
      return {
        fault: 'there is no GPU that Vulkan, Metal or Direct3D 12 offers to this process',
        fix: "install the GPU's driver (in a container: pass the device and its Vulkan driver in), or take --device cpu",
      }
    return { fault: first, fix: '--device cpu does without' }
  }
  const install = 'node node_modules/onnxruntime-node/script/install.js --onnxruntime-node-install'
  const missing = /(lib[\w.+-]+\.so[\w.]*): cannot open shared object/.exec(reason)?.[1]
  if (missing && !/onnxruntime_providers/.test(missing))
    return { fault: `${missing} is not found`, fix: "put CUDA's and cuDNN's libraries on LD_LIBRARY_PATH" }
  if (missing || /Failed to load (shared )?library|providers_(shared|cuda)/i.test(reason))
    return { fault: "ONNX Runtime's CUDA libraries are not installed", fix: `run \`${install}\` once` }
  if (/no CUDA-capable device|CUDA driver version|cudaGetDeviceCount|CUDA failure/i.test(reason))
    return {
      fault: `CUDA finds no GPU (${/CUDA failure \d+: [^;]*/.exec(reason)?.[0].trim() ?? first})`,
      fix: "install NVIDIA's driver, or take --device cpu",
    }
  return { fault: first, fix: '--device cpu does without' }
}
