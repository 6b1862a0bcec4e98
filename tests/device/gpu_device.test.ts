// What a GPU device does besides running ops: memory, loading, refusing, failing. On the emulator, so that it runs anywhere.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { gpuReport } from '../../lib/backends.ts'
import { type Device, openDevice } from '../../lib/device.ts'
import {
  groupedGemm,
  groupedGemmSwiglu,
  moeGating,
  moePermute,
  moeRouting,
  rmsNorm,
} from '../../lib/ops/index.ts'
import { dtypeIndex } from '../../lib/tensor.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, toBf16 } from '../support/op_fixture.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { f32, i32, randomTensor } from '../ops/describe_op.ts'

describe.skipIf(gpuReport('cuda-emulator').problem !== '')('an emulated GPU', () => {
  const { path: folder } = tempFolder()
  let device: Device
  beforeAll(async () => {
    device = await openDevice('cuda-emulator')
  })
  afterAll(() => device.dispose())

  it('is named with its number, and keeps panels in bf16', () => {
    expect(device.name).toBe('cuda-emulator:0')
    expect(device.panelDtype).toBe('bf16')
  })

  it('counts what is allocated, and gives it back', async () => {
    const before = device.memory()
    const tensor = device.empty('f32', [1 << 20])
    expect(device.memory().allocatedBytes - before.allocatedBytes).toBe(4 << 20)
    expect(before.freeBytes - device.memory().freeBytes).toBe(4 << 20)
    device.free(tensor)
    await device.run((p) => ({ ...moeGating(p, f32([1, 2], [1, 2])) })) // freed in order with the runs
    expect(device.memory().allocatedBytes).toBeLessThan(before.allocatedBytes + (4 << 20))
  })

  it('hands out zeros, and reads back what was written', async () => {
    const tensor = device.empty('i32', [5])
    expect([...(await device.read(tensor)).data]).toEqual([0, 0, 0, 0, 0])
    await device.write(tensor, Int32Array.of(7, 8), 2)
    expect([...(await device.read(tensor)).data]).toEqual([0, 0, 7, 8, 0])
    device.free(tensor)
  })

  it('says how much memory there is when it is not enough', () =>
    expectError(
      () => device.empty('f32', [1 << 29]),
      'ERR_OPENMOE_OUT_OF_MEMORY',
      /2\.00 GiB could not be allocated on cuda-emulator:0: \d\.\d\d of its 1\.00 GiB are free.*device: 'cpu'/,
    ))

  it('refuses an op it has no kernel for while recording, naming both', () =>
    expectError(
      () => device.compile((p) => rmsNorm(p, f32([1, 2], [1, 2]), f32([1, 1]))),
      'ERR_OPENMOE_UNSUPPORTED',
      /rms_norm: cuda-emulator:0 has no kernel for rms_norm yet/,
    ))

  it('refuses f32 weights, and its default is bf16', async () => {
    const weights = randomTensor(1, [4, 8])
    expect((await device.matrix(weights)).dtype).toBe('bf16')
    await expectError(
      device.matrix(weights, 'f32'),
      'ERR_OPENMOE_INVALID_ARG',
      /holds weights in bf16, not in f32/,
    )
  })

  it('names the op that met a wrong index, and goes on working', async () => {
    const routing = (expert: number) =>
      device.run((p) => ({
        ...moeRouting(p, i32([0, expert], [1, 2]), {
          numExperts: 2,
          groupOffsets: i32([0, 1]),
          capacity: i32([-1]),
        }),
      }))
    await expectError(
      routing(2),
      'ERR_OPENMOE_INVALID_ARG',
      /^moe_routing: an expert, row or offset is out of range/,
    )
    expect([...(await routing(1)).expertOffsets.data]).toEqual([0, 1, 2])
  })

  it('refuses a panel where an op wants rows', () =>
    expectError(
      () =>
        device.compile((p) => {
          const route = { rowIdMap: i32([0], [1, 1]), expertOffsets: i32([0, 1]) }
          return moePermute(p, moePermute(p, f32([1], [1, 1]), route), route)
        }),
      'ERR_OPENMOE_INVALID_ARG',
      /moe_permute: x is grouped by expert in the device's own layout/,
    ))

  it('gives a time per op', async () => {
    const program = device.compile((p) => moeGating(p, f32([1, 2, 3, 4], [2, 2])).expertIds)
    const { profile } = await program.run({}, { profile: true })
    expect(profile!.map(({ label }) => label)).toEqual(['moe_gating'])
    expect(profile![0]!.microseconds).toBeGreaterThan(0)
  })

  it('rejects what waits when it is disposed, and every use after', async () => {
    const other = await openDevice('cuda-emulator:1')
    const x = randomTensor(1, [400, 64])
    const runs = Array.from({ length: 5 }, () => other.run((p) => moeGating(p, x).expertIds))
    const settled = Promise.allSettled(runs)
    await other.dispose()
    expect((await settled).some(({ status }) => status === 'rejected')).toBe(true)
    await expectError(() => other.empty('f32', [1]), 'ERR_OPENMOE_DISPOSED')
  })

  it('loads the parts of a gate_up matrix from a file as device.matrix() packs them', async () => {
    const [experts, width, inFeatures] = [2, 70, 200]
    const weights = randomTensor(2, [experts, 3 * width, inFeatures], 0.1)
    const file = join(folder, 'gate_up')
    writeFileSync(file, toBf16(weights.data))
    const shape = { count: experts, outFeatures: 3 * width, inFeatures, layout: 'gate_up' } as const
    const loaded = device.emptyMatrix('bf16', shape)
    for (let e = 0; e < experts; e++) {
      for (const [first, rows] of [
        [0, 2 * width],
        [2 * width, width],
      ] as const) {
        const offset = 2 * (e * 3 * width + first) * inFeatures
        const strides = { cols: inFeatures, rowStride: inFeatures, colStride: 1 }
        await device.loadMatrix(
          { file, offset, dtype: dtypeIndex('bf16'), rows, ...strides },
          loaded,
          e,
          first,
        )
      }
    }
    const packed = await device.matrix(weights, 'bf16', { layout: 'gate_up' })
    const run = (matrix: typeof packed) =>
      device.run((p) => groupedGemmSwiglu(p, randomTensor(3, [9, inFeatures]), matrix, i32([0, 4, 9])))
    expectSameBits((await run(loaded)).data, (await run(packed)).data)
  })

  it('shows NaN that an op made, when asked to look for it', async () => {
    process.env.OPENMOE_TRACE = '1'
    try {
      const run = device.run((p) => moeGating(p, f32([NaN, 1], [1, 2])).expertWeights)
      await expectError(run, 'ERR_OPENMOE_NON_FINITE', /moe_gating: expert_weights\[0\] is/)
    } finally {
      delete process.env.OPENMOE_TRACE
    }
  })

  it('does not take plain rows for a panel of another device', async () => {
    const cpu = await openDevice('cpu', { threads: 1 })
    const weight = await device.matrix(randomTensor(1, [4, 8]))
    const record = () => cpu.compile((p) => groupedGemm(p, randomTensor(2, [3, 8]), weight, i32([0, 3])))
    await expectError(record, 'ERR_OPENMOE_INVALID_ARG', /another program or device/)
    await cpu.dispose()
  })
})

describe('openDevice', () => {
  it.each([
    ['cuda-emulator:2', 'ERR_OPENMOE_DEVICE_UNAVAILABLE', /there is no such device, there are 2/],
    ['cuda:9999', 'ERR_OPENMOE_DEVICE_UNAVAILABLE', /^cuda:9999: .*device: 'cpu'.*doctor/],
    ['cuda:-1', 'ERR_OPENMOE_INVALID_ARG', /'cuda:-1' is unknown/],
    ['cuda:x', 'ERR_OPENMOE_INVALID_ARG', /'cuda:x' is unknown/],
    ['CUDA', 'ERR_OPENMOE_INVALID_ARG', /Use 'auto', 'cpu', 'cuda' or 'cuda:N'/],
  ] as const)('refuses %s', async (name, code, message) => {
    await expectError(openDevice(name), code, message)
  })
})
