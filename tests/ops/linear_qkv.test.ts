import { expect, it } from 'vitest'
import { linear } from '../../lib/ops/linear.ts'
import { linearQkv } from '../../lib/ops/linear_qkv.ts'
import { linearQkv as reference } from '../reference/linear_qkv.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, F32_NMSE, roundedRows, storedWeights } from '../support/op_fixture.ts'
import { describeOp, f32, nmse, randomTensor } from './describe_op.ts'

// Tokens, q and kv features, inputs: parts that end with a panel (32) and inside one, more queries than keys and fewer.
const SHAPES = [
  [0, 64, 64, 40],
  [1, 96, 96, 770],
  [3, 67, 35, 128],
  [8, 64, 32, 257],
  [12, 31, 33, 64],
  [13, 128, 16, 40],
  [97, 40, 64, 135],
] as const

const NAMES = ['q', 'k', 'v'] as const

describeOp('linear_qkv', ({ backend, run, matrix, device, weightDtypes }) => {
  it('multiplies the rows of x with each matrix', async () => {
    const x = f32([1, 2, 3, 4], [2, 2])
    const q = await matrix(f32([1, 0, 0, 1], [2, 2]))
    const k = await matrix(f32([10, 1], [1, 2]))
    const v = await matrix(f32([0, -1], [1, 2]))
    const out = await run((p) => linearQkv(p, x, { q, k, v }))
    expect(NAMES.map((name) => [...out[name].data])).toEqual([
      [1, 2, 3, 4],
      [12, 34],
      [-2, -4],
    ])
  })

  for (const dtype of weightDtypes) {
    it.each(SHAPES)(
      `agrees with the reference, and to the bit with linear, at %i tokens, ${dtype} [%i and %i, %i]`,
      async (tokens, qFeatures, kvFeatures, inFeatures) => {
        const x = randomTensor(1, [tokens, inFeatures])
        const weights = {
          q: randomTensor(2, [qFeatures, inFeatures]),
          k: randomTensor(3, [kvFeatures, inFeatures]),
          v: randomTensor(4, [kvFeatures, inFeatures]),
        }
        const packed = {
          q: await matrix(weights.q, dtype),
          k: await matrix(weights.k, dtype),
          v: await matrix(weights.v, dtype),
        }
        const out = await run((p) => linearQkv(p, x, packed))
        const alone = await run((p) => ({
          q: linear(p, x, packed.q),
          k: linear(p, x, packed.k),
          v: linear(p, x, packed.v),
        }))
        const stored = {
          q: await storedWeights(device(), packed.q, weights.q),
          k: await storedWeights(device(), packed.k, weights.k),
          v: await storedWeights(device(), packed.v, weights.v),
        }
        const expected = reference(roundedRows(x, dtype, backend), stored, inFeatures)
        for (const name of NAMES) {
          expect(out[name].shape).toEqual(alone[name].shape)
          expectSameBits(out[name].data, alone[name].data)
          expect(nmse(out[name].data, expected[name])).toBeLessThan(F32_NMSE)
        }
      },
    )
  }

  it('takes the weights of a layer, whose o may have any width', async () => {
    const square = await matrix(randomTensor(1, [4, 4]))
    const weights = { q: square, k: square, v: square, o: await matrix(randomTensor(2, [4, 6])) }
    const out = await run((p) => linearQkv(p, randomTensor(3, [2, 4]), weights))
    expectSameBits(out.q.data, out.v.data)
  })

  it('refuses weights that do not fit together', async () => {
    const x = randomTensor(1, [2, 3])
    const [a, b] = [await matrix(randomTensor(2, [4, 3])), await matrix(randomTensor(3, [5, 3]))]
    const wide = await matrix(randomTensor(4, [4, 6]))
    const other = await matrix(
      randomTensor(2, [4, 3]),
      weightDtypes.find((dtype) => dtype !== a.dtype),
    )
    for (const [weights, message] of [
      [{ q: a, k: a, v: b }, /linear_qkv: k has 4 rows, v 5/],
      [{ q: a, k: wide, v: a }, /linear_qkv: k is 1 x \[4, 6\], expected 1 x \[out_features, 3\]/],
      [{ q: a, k: a, v: other }, /linear_qkv: the weights are .* and .*, expected one dtype/],
    ] as const) {
      await expectError(() => run((p) => linearQkv(p, x, weights)), 'ERR_OPENMOE_INVALID_ARG', message)
    }
  })
})
