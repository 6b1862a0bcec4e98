import { expect, it } from 'vitest'
import { groupedGemm } from '../../lib/ops/grouped_gemm.ts'
import { linear } from '../../lib/ops/linear.ts'
import { openDevice } from '../../lib/device.ts'
import { widenBfloat16 } from '../../lib/checkpoint/safetensors.ts'
import { tensor } from '../../lib/tensor.ts'
import { groupedGemm as reference } from '../reference/grouped_gemm.ts'
import { expectError } from '../support/expect_error.ts'
import {
  BF16_NMSE,
  expectClose,
  expectSameBits,
  F32_NMSE,
  opFixture,
  opsJson,
  roundedRows,
  rows,
  storedWeights,
} from '../support/op_fixture.ts'
import { describeOp, f32, i32, nmse, openOther, randomTensor } from './describe_op.ts'

/** Rows of each expert, out_features, in_features. */
const SHAPES = [
  [[0], 5, 7],
  [[3], 5, 7],
  [[1, 1, 1, 1], 33, 65],
  [[0, 0, 150, 0], 40, 129],
  [[2, 0, 7, 1, 0, 13, 0, 30], 67, 131],
  [[100, 1, 97], 96, 257],
  [Array.from({ length: 33 }, (_, e) => (e * 7) % 5), 31, 32],
] as const

const offsetsOf = (counts: readonly number[]): number[] => {
  const offsets = [0]
  for (const count of counts) offsets.push(offsets.at(-1)! + count)
  return offsets
}

describeOp('grouped_gemm', (t) => {
  const { backend, isGpu, run, matrix } = t

  it('multiplies each row with the weights of its expert', async () => {
    const weight = await matrix(f32([1, 0, 0, 1, 2, 0, 0, 3], [2, 2, 2]))
    const out = await run((p) => groupedGemm(p, f32([1, 2, 3, 4, 5, 6], [3, 2]), weight, i32([0, 1, 3])))
    expect([...out.data]).toEqual([1, 2, 6, 12, 10, 18])
  })

  it('leaves rows past the last expert zero', async () => {
    const weight = await matrix(f32([1, 1], [2, 1, 1]))
    const out = await run((p) => groupedGemm(p, f32([7, 8, NaN], [3, 1]), weight, i32([0, 1, 1])))
    expect([...out.data]).toEqual([7, 0, 0])
  })

  it('matches the golden fixture, f32 and bf16', async () => {
    const get = await opFixture('grouped_gemm')
    const { atol } = opsJson<{ atol: number }>('grouped_gemm')
    const weight = await matrix(get('w_transposed'))
    const out = await run((p) => groupedGemm(p, get('x'), weight, get('offsets')))
    if (isGpu)
      expect(nmse(out.data, get('y').data)).toBeLessThan(3 * BF16_NMSE) // weights, x and y are rounded
    else expectClose(out.data, get('y').data, { atol })

    const stored = widenBfloat16(get('w_bf16').data as Uint16Array) // [E, K, M]
    const [numExperts = 0, k = 0, m = 0] = get('w_bf16').shape
    const transposed = Float32Array.from({ length: stored.length }, (_, i) => {
      const [e, n, j] = [Math.floor(i / (k * m)), Math.floor(i / k) % m, i % k]
      return stored[(e * k + j) * m + n]!
    })
    const packed = await matrix(tensor(transposed, [numExperts, m, k]), 'bf16')
    const x = tensor(widenBfloat16(get('x_bf16').data as Uint16Array), get('x_bf16').shape)
    const fromBf16 = await run((p) => groupedGemm(p, x, packed, get('offsets')))
    const { data: expected } = get('y_from_bf16')
    if (isGpu)
      expect(nmse(fromBf16.data, expected)).toBeLessThan(BF16_NMSE) // only y is rounded
    else expectClose(fromBf16.data, expected, { atol })
  })

  for (const dtype of t.weightDtypes) {
    // Where activations are rounded to bf16 first, so are the reference's: the products are then exact on both sides.

    it.each(SHAPES)(
      `agrees with the reference at rows %j of ${dtype} [%i, %i]`,
      async (counts, out, inFeatures) => {
        const offsets = offsetsOf(counts)
        const x = randomTensor(1, [offsets.at(-1)! + 2, inFeatures])
        const weight = randomTensor(2, [counts.length, out, inFeatures])
        const packed = await matrix(weight, dtype)
        const actual = await run((p) => groupedGemm(p, x, packed, i32(offsets)))
        const stored = await storedWeights(t.device(), packed, weight)
        const bound = isGpu ? BF16_NMSE : F32_NMSE
        expect(
          nmse(actual.data, reference(roundedRows(x, dtype, backend), stored, offsets, inFeatures)),
        ).toBeLessThan(bound)
      },
    )

    it.skipIf(isGpu)(
      `gives a row the bits of linear, whatever its neighbours and the threads, ${dtype}`,
      async () => {
        const offsets = i32([0, 1, 1, 6, 103, 110])
        const x = randomTensor(3, [110, 300])
        const weight = randomTensor(4, [5, 70, 300])
        const packed = await matrix(weight, dtype)
        const all = await run((p) => groupedGemm(p, x, packed, offsets))
        expectSameBits((await run((p) => groupedGemm(p, x, packed, offsets))).data, all.data)
        for (const [row, e] of [
          [0, 0],
          [3, 2],
          [77, 3],
          [109, 4],
        ] as const) {
          const own = await matrix(tensor(weight.data.slice(e * 21000, (e + 1) * 21000), [70, 300]), dtype)
          const alone = await run((p) => linear(p, rows(x, row, row + 1), own))
          expectSameBits(alone.data, rows(all, row, row + 1).data)
        }
        for (const threads of [1, 3]) {
          const device = await openOther(backend, threads)
          const again = await device.matrix(weight, dtype)
          expectSameBits((await device.run((p) => groupedGemm(p, x, again, offsets))).data, all.data)
          await device.dispose()
        }
      },
    )
  }

  it('gives the same bits twice, and elsewhere', async () => {
    const [x, offsets] = [randomTensor(3, [40, 300]), i32([0, 1, 1, 6, 33, 40])]
    const weight = randomTensor(4, [5, 140, 300])
    const packed = await matrix(weight, 'bf16')
    const once = await run((p) => groupedGemm(p, x, packed, offsets))
    expectSameBits((await run((p) => groupedGemm(p, x, packed, offsets))).data, once.data)
    const other = await openOther(backend)
    const again = await other.matrix(weight, 'bf16')
    expectSameBits((await other.run((p) => groupedGemm(p, x, again, offsets))).data, once.data)
    await other.dispose()
  })

  it('gives a row the same bits alone as among others, if the device was opened for it', async () => {
    const device = await openDevice(backend.device, { ...backend.options, batchInvariant: true })
    const x = randomTensor(3, [110, 300])
    const packed = await device.matrix(randomTensor(4, [5, 70, 300]), 'bf16')
    const all = await device.run((p) => groupedGemm(p, x, packed, i32([0, 1, 1, 6, 103, 110])))
    for (const [row, offsets] of [
      [0, [0, 1, 1, 1, 1, 1]],
      [3, [0, 0, 0, 1, 1, 1]],
      [77, [0, 0, 0, 0, 1, 1]],
    ] as const) {
      const alone = await device.run((p) => groupedGemm(p, rows(x, row, row + 1), packed, i32(offsets)))
      expectSameBits(alone.data, rows(all, row, row + 1).data)
    }
    await device.dispose()
  })

  it.each([
    [[1, 2, 3], /expert_offsets\[0\] is 1, expected 0/],
    [[-1, 2, 3], /expert_offsets\[0\] is -1, expected 0/],
    [[0, 2, 1], /expert_offsets\[2\] is 1, expected 2 to num_rows = 3/],
    [[0, -2147483648, 3], /expert_offsets\[1\] is -2147483648, expected 0 to/],
    [[0, 2, 4], /expert_offsets\[2\] is 4, expected 2 to num_rows = 3/],
    [[0, 2147483647, 3], /expert_offsets\[1\] is 2147483647/],
  ])('refuses the offsets %j', async (offsets, message) => {
    const weight = await matrix(randomTensor(1, [2, 4, 5]))
    const x = randomTensor(2, [3, 5])
    await expectError(
      () => run((p) => groupedGemm(p, x, weight, i32(offsets))),
      'ERR_OPENMOE_INVALID_ARG',
      isGpu ? /out of range/ : message,
    )
  })

  it('refuses offsets of another number of experts', async () => {
    const weight = await matrix(randomTensor(1, [2, 4, 5]))
    const record = () => run((p) => groupedGemm(p, randomTensor(2, [3, 5]), weight, i32([0, 3])))
    await expectError(record, 'ERR_OPENMOE_INVALID_ARG', /expert_offsets is i32 \[2\], expected i32 \[3\]/)
  })
})
