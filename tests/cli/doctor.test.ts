import { expect, it } from 'vitest'
import { describeGpus } from '../../lib/cli/commands/doctor.ts'
import type { GpuReport } from '../../lib/backends.ts'

const GPU = {
  description: 'NVIDIA H200',
  capability: 90,
  numSms: 132,
  totalBytes: 140 * 2 ** 30,
  driver: 13010,
  runtime: 13000,
}
const lines = (report: Partial<GpuReport>, ...memory: (number | string)[]) =>
  describeGpus({ isBuilt: true, problem: '', devices: [], ...report }, memory)

it('says that there was no nvcc, and what to do', () => {
  const report = lines({ isBuilt: false, problem: 'this build has no CUDA module. Run: npm run build' })
  expect(report['cuda module']).toBe('not built: this build has no CUDA module. Run: npm run build')
  expect(report.cuda).toBe('no GPU can be used')
})

it('says why there is no device', () => {
  const report = lines({ problem: 'no NVIDIA driver is installed' })
  expect(report).toEqual({ 'cuda module': 'built', cuda: 'no NVIDIA driver is installed' })
})

it('describes a device', () => {
  expect(lines({ devices: [GPU] }, 139 * 2 ** 30)).toEqual({
    'cuda module': 'built',
    cuda: '1 found',
    'cuda:0':
      'NVIDIA H200, compute capability 9.0, 132 SMs, driver for CUDA 13.1, built with 13.0; 139.0 of 140.0 GiB free',
  })
})

it('says that a device is too old, does not open, or is used by others', () => {
  const old = { ...GPU, description: 'Tesla V100', capability: 70 }
  const tooOld = 'cuda:0: Tesla V100 has compute capability 7.0, the kernels need 8.0'
  const report = lines({ devices: [old, GPU, GPU] }, tooOld, 'cuda:1: out of memory', 2 ** 30)
  expect(report['cuda:0']).toMatch(
    /Tesla V100, compute capability 7\.0.*cannot be used: .*the kernels need 8\.0/,
  )
  expect(report['cuda:1']).toMatch(/cannot be used: cuda:1: out of memory/)
  expect(report['cuda:2']).toMatch(/1\.0 of 140\.0 GiB free; out of memory errors are likely/)
})
