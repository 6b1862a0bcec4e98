import { expect, it } from 'vitest'
import { describeGpus } from '../../lib/cli/commands/doctor.ts'
import type { GpuReport } from '../../lib/backends.ts'

const GPU = {
  description: 'NVIDIA H200',
  capability: 90,
  numSms: 132,
  totalBytes: 140 * 2 ** 30,
  freeBytes: 139 * 2 ** 30,
  driver: 13010,
  runtime: 13000,
}
const lines = (report: Partial<GpuReport>) =>
  describeGpus({ isBuilt: true, problem: '', devices: [], ...report })

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
  expect(lines({ devices: [GPU] })).toEqual({
    'cuda module': 'built',
    cuda: '1 found',
    'cuda:0':
      'NVIDIA H200, compute capability 9.0, 132 SMs, 139.0 of 140.0 GiB free, driver for CUDA 13.1, built with 13.0',
  })
})

it('says that a device is too old, or that others use its memory', () => {
  const old = { ...GPU, description: 'Tesla V100', capability: 70 }
  const full = { ...GPU, freeBytes: 2 ** 30 }
  const report = lines({ problem: 'cuda:0: too old', devices: [old, full] })
  expect(report['cuda:0']).toMatch(/Tesla V100, compute capability 7\.0.*too old: the kernels need 8\.0/)
  expect(report['cuda:1']).toMatch(/1\.0 of 140\.0 GiB free \(out of memory errors are likely/)
})
