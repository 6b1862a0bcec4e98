import { expect, it } from 'vitest'
import { groupedGemm } from '../../lib/ops/grouped_gemm.ts'
import { groupedGemmSwiglu } from '../../lib/ops/grouped_gemm_swiglu.ts'
import { swiglu } from '../../lib/ops/swiglu.ts'
import type { HostTensor, MatrixDtype } from '../../lib/tensor.ts'
import { groupedGemm as groupedGemmReference } from '../reference/grouped_gemm.ts'
import { groupedGemmSwiglu as reference } from '../reference/grouped_gemm_swiglu.ts'
import { expectError } from '../support/expect_error.ts'
import {
  BF16_NMSE,
  expectClose,
  expectSameBits,
  F32_NMSE,
  roundedRows,
  rows,
  storedWeights,
  throughBf16,
} from '../support/op_fixture.ts'
import { describeOp, f32, i32, nmse, openOther, randomTensor } from './describe_op.ts'

/** Activations rounded to bf16, serving.md 3.1; three of them are multiplied. */
const BF16_ACTIVATIONS_NMSE = 9e-5

/** Rows of each expert, intermediate_size, in_features. */
const SHAPES = [
  [[0], 5, 7],
  [[3], 5, 7],
  [[1, 1, 1, 1], 33, 65],
  [[0, 0, 150, 0], 40, 129],
  [[2, 0, 7, 1, 0, 13, 0, 30], 67, 131],
  [[500, 1, 900, 97], 8, 33],
  [[5, 0, 130, 1], 64, 70],
  [Array.from({ length: 33 }, (_, e) => (e * 7) % 5), 31, 32],
] as const

const offsetsOf = (counts: readonly number[]): number[] =>
  counts.reduce((offsets, count) => [...offsets, offsets.at(-1)! + count], [0])

describeOp('grouped_gemm_swiglu', (t) => {
  const { backend, isGpu, roundsActivations, run, device, throughPanel } = t
  const pack = (weight: HostTensor, dtype?: MatrixDtype) =>
    device().matrix(weight, dtype, { layout: 'gate_up' })

  it('multiplies the first part by silu of the second and by the third', async () => {
    const weight = await pack(f32([2, 0, 0, 3, 1, 1, /* the other expert */ 1, 0, 0, 0, 0, 1], [2, 3, 2]))
    const out = await run((p) => groupedGemmSwiglu(p, f32([1, 0.5, 4, 2], [2, 2]), weight, i32([0, 1, 2])))
    expectClose(out.data, [(2 * 1.5 * 1.5) / (1 + Math.exp(-1.5)), 0], { atol: isGpu ? 0.01 : 1e-5 }) // of 3.7, rounded to bf16
  })

  it('leaves rows past the last expert zero', async () => {
    const weight = await pack(f32([1, 1, 1], [1, 3, 1]))
    const out = await run((p) => groupedGemmSwiglu(p, f32([1, 8, NaN], [3, 1]), weight, i32([0, 1])))
    expect([...out.data].slice(1)).toEqual([0, 0])
  })

  for (const dtype of t.weightDtypes) {
    it.each(SHAPES)(
      `agrees with the reference at rows %j of ${dtype} 3 x [%i, %i]`,
      async (counts, width, inFeatures) => {
        const offsets = offsetsOf(counts)
        const x = randomTensor(1, [offsets.at(-1)! + 2, inFeatures])
        const weight = randomTensor(2, [counts.length, 3 * width, inFeatures], 1 / Math.sqrt(inFeatures))
        const packed = await pack(weight, dtype)
        const actual = await run((p) => groupedGemmSwiglu(p, x, packed, i32(offsets)))
        const stored = await storedWeights(device(), packed, weight)
        const expected = reference(roundedRows(x, dtype, backend), stored, offsets, inFeatures)
        expect(nmse(actual.data, expected)).toBeLessThan(isGpu ? BF16_NMSE : F32_NMSE)
      },
    )

    it.skipIf(isGpu).each([33, 64])(
      `has the bits of grouped_gemm and swiglu, whatever the neighbours, ${dtype} 3 x %i`,
      async (width) => {
        const offsets = i32([0, 1, 1, 6, 903, 910])
        const x = randomTensor(3, [910, 70])
        const weight = randomTensor(4, [5, 3 * width, 70], 0.1)
        const [packed, plain] = [await pack(weight, dtype), await device().matrix(weight, dtype)]
        const all = await run((p) => groupedGemmSwiglu(p, x, packed, offsets))
        const apart = await run((p) => swiglu(p, groupedGemm(p, x, plain, offsets)))
        expectSameBits(all.data, apart.data)
        expectSameBits((await run((p) => groupedGemmSwiglu(p, x, packed, offsets))).data, all.data)
        const alone = await run((p) => groupedGemmSwiglu(p, rows(x, 77, 78), packed, i32([0, 0, 0, 0, 1, 1])))
        expectSameBits(alone.data, rows(all, 77, 78).data)
      },
    )
  }

  it('gives the same bits twice, and elsewhere', async () => {
    const [x, offsets] = [randomTensor(3, [40, 200]), i32([0, 1, 1, 6, 33, 40])]
    const weight = randomTensor(4, [5, 300, 200], 0.1)
    const packed = await pack(weight, 'bf16')
    const once = await run((p) => groupedGemmSwiglu(p, x, packed, offsets))
    expectSameBits((await run((p) => groupedGemmSwiglu(p, x, packed, offsets))).data, once.data)
    const other = await openOther(backend)
    const again = await other.matrix(weight, 'bf16', { layout: 'gate_up' })
    expectSameBits((await other.run((p) => groupedGemmSwiglu(p, x, again, offsets))).data, once.data)
    await other.dispose()
  })

  it("feeds grouped_gemm without leaving the device's layout", async () => {
    const [x, offsets] = [randomTensor(3, [21, 70]), i32([0, 3, 3, 21])]
    const [up, down] = [randomTensor(4, [3, 3 * 50, 70], 0.1), randomTensor(5, [3, 70, 50])]
    const packed = [await pack(up, 'bf16'), await device().matrix(down, 'bf16')] as const
    const out = await run((p) =>
      groupedGemm(p, groupedGemmSwiglu(p, x, packed[0], offsets), packed[1], offsets),
    )
    const inner = reference(throughPanel(x.data), throughBf16(up.data), offsets.data, 70)
    const expected = groupedGemmReference(inner, throughBf16(down.data), offsets.data, 50)
    expect(nmse(out.data, expected)).toBeLessThan(roundsActivations ? BF16_ACTIVATIONS_NMSE : F32_NMSE)
  })

  it.each([
    [[1, 2, 3], /expert_offsets\[0\] is 1, expected 0/],
    [[0, 2, 1], /expert_offsets\[2\] is 1, expected 2 to num_rows = 3/],
    [[0, 2, 4], /expert_offsets\[2\] is 4, expected 2 to num_rows = 3/],
    [[0, -(2 ** 31), 3], /expert_offsets\[1\] is -2147483648, expected 0 to/],
  ])('refuses the offsets %j', async (offsets, message) => {
    const weight = await pack(randomTensor(1, [2, 6, 5]))
    const record = () => run((p) => groupedGemmSwiglu(p, randomTensor(2, [3, 5]), weight, i32(offsets)))
    await expectError(record, 'ERR_OPENMOE_INVALID_ARG', isGpu ? /out of range/ : message)
  })

  it('refuses a matrix of plain rows, and grouped_gemm refuses one of its own', async () => {
    const [x, offsets] = [randomTensor(2, [3, 5]), i32([0, 3])]
    const plain = await device().matrix(randomTensor(1, [6, 5]))
    const message = /grouped_gemm_swiglu: weight has the layout 'rows', expected 'gate_up'/
    await expectError(
      () => run((p) => groupedGemmSwiglu(p, x, plain, offsets)),
      'ERR_OPENMOE_INVALID_ARG',
      message,
    )
    const gateUp = await pack(randomTensor(1, [6, 5]))
    const other = /grouped_gemm: weight has the layout 'gate_up', expected 'rows'/
    await expectError(() => run((p) => groupedGemm(p, x, gateUp, offsets)), 'ERR_OPENMOE_INVALID_ARG', other)
  })

  it('refuses a gate_up matrix without three equal parts', async () => {
    await expectError(
      pack(randomTensor(1, [4, 5])),
      'ERR_OPENMOE_INVALID_ARG',
      /out_features is 4.*three equal parts/,
    )
  })
})
