import { describe, expect, test } from 'vitest'
import { chooseDevice, explained, tryDevice } from '../../../worker/inference/device.js'
import { isDeviceLost } from '../../../worker/inference/session.js'

const silent = { info: () => undefined, warn: () => undefined }

describe('what native libraries say is said as what to do', () => {
  const loader = "Couldn't load Vulkan: libvulkan.so.1: cannot open shared object file: No such file or directory"
  const cases: ['cuda' | 'webgpu', string, RegExp, RegExp][] = [
    ['webgpu', `adapter_result.status == wgpu::RequestAdapterStatus\n${loader}`, /loader/, /libvulkan1/],
    ['webgpu', 'Failed to get a WebGPU adapter: No supported adapters.', /no GPU/, /driver/],
    ['webgpu', 'a shader did not compile\nat line 3', /^a shader did not compile$/, /--device cpu/],
    [
      'cuda',
      'Failed to load library /a/libonnxruntime_providers_shared.so with error: /a/libonnxruntime_providers_shared.so: cannot open shared object file',
      /not installed/,
      /install\.js/,
    ],
    [
      'cuda',
      'Failed to load library /a/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file',
      /libcublasLt\.so\.13 is not found/,
      /LD_LIBRARY_PATH/,
    ],
    ['cuda', 'CUDA failure 100: no CUDA-capable device is detected', /finds no GPU/, /driver/],
  ]
  test.each(cases)('%s: %s', (device, reason, fault, fix) => {
    expect(explained(device, reason)).toEqual({
      fault: expect.stringMatching(fault),
      fix: expect.stringMatching(fix),
    })
  })
})

test('the CPU is always there', async () => {
  expect(await tryDevice('cpu')).toEqual({ device: 'cpu', halves: true })
})

test('auto is the CPU where no GPU shows itself, without a trial', async () => {
  const said: unknown[] = []
  const log = { ...silent, info: (fields: object, message: string) => said.push([fields, message]) }
  expect(await chooseDevice('auto', log, () => false)).toEqual({ device: 'cpu', halves: true })
  expect(said).toEqual([])
})

test.each(['cuda', 'webgpu'] as const)('%s by name, or the fault with its fix', async (device) => {
  const { fault, fix } = await tryDevice(device)
  // Machines that have one pass the rest by.
  if (fault === undefined || fix === undefined) return
  const refused = chooseDevice(device, silent)
  await expect(refused).rejects.toMatchObject({ code: 'invalid_configuration', details: { param: 'device' } })
  await expect(refused).rejects.toThrow(`device: "${device}" cannot be used on this machine: ${fault}; ${fix}`)
})

test('auto falls back to the CPU where a GPU shows itself and cannot be used, and says why', async () => {
  const said: object[] = []
  const log = { ...silent, warn: (fields: object) => said.push(fields) }
  const { device } = await chooseDevice('auto', log, () => true)
  if (device === 'cpu') expect(said).toEqual([{ device: 'cpu', cuda: expect.any(String) }])
})

test('a device that is lost is told from a batch that fails', () => {
  const lost = [
    'WebGPU device lost (2): A valid external Instance reference no longer exists.',
    'wgpu::DeviceLost: Device was lost: VK_ERROR_DEVICE_LOST',
    'CUDA failure 700: an illegal memory access was encountered ; GPU=0',
    'CUDNN failure: unspecified launch failure',
  ]
  for (const message of lost) expect(isDeviceLost(message), message).toBe(true)
  const failed = [
    'Non-zero status code returned while running Gather node: indices element out of data bounds, idx=99999',
    'CUDA failure 2: out of memory ; GPU=0',
    'Invalid rank for input: input_ids',
  ]
  for (const message of failed) expect(isDeviceLost(message), message).toBe(false)
})
