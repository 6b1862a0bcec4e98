import { expect, it } from 'vitest'
import { linear } from '../../lib/ops/linear.ts'
import { tensor } from '../../lib/tensor.ts'
import { linear as reference } from '../reference/linear.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, F32_NMSE, roundedRows, rows, storedWeights } from '../support/op_fixture.ts'
import { describeOp, f32, nmse, openOther, randomTensor } from './describe_op.ts'

// Around the edges of panels (32), tiles (2, 3, 8, 12 rows), groups and blocks of k (32 to
// 1024, and 2048 and 4096 of int8 and int4) and items (96 rows).
const SHAPES = [
  ...[0, 1, 2, 3, 4, 5, 7, 12, 13, 33, 97, 200].map((tokens) => [tokens, 67, 135] as const),
  ...[1, 2, 3, 8, 16, 31, 32, 33, 63, 64, 65, 96].map((out) => [5, out, 40] as const),
  ...[1, 2, 3, 31, 32, 33, 127, 128, 129, 255, 256, 257, 511, 770].map(
    (inFeatures) => [14, 40, inFeatures] as const,
  ),
  [1, 1000, 768] as const,
  [2, 300, 1025] as const,
  [222, 256, 511] as const,
  [98, 33, 1100] as const,
  [13, 33, 4200] as const,
]

describeOp('linear', ({ backend, run, matrix, device, weightDtypes }) => {
  it('multiplies each row of x with each row of the weights', async () => {
    const weight = await matrix(f32([1, 0, 0, 0, 10, 100, 1, 1, 1], [3, 3]))
    const out = await run((p) => linear(p, f32([1, 2, 3, 4, 5, 6], [2, 3]), weight))
    expect([...out.data]).toEqual([1, 320, 6, 4, 650, 15])
  })

  it('adds a residual', async () => {
    const weight = await matrix(randomTensor(1, [67, 40]))
    const x = randomTensor(2, [13, 40])
    const residual = randomTensor(3, [13, 67])
    const [out, product] = await run((p) => [linear(p, x, weight, residual), linear(p, x, weight)])
    const sum = Float32Array.from(residual.data, (value, i) => value + product!.data[i]!)
    expectSameBits(out!.data, sum)
  })

  for (const dtype of weightDtypes) {
    // Where activations are rounded first, so are the reference's: the products are then exact on both sides.

    it.each(SHAPES)(
      `agrees with the reference at %i tokens, ${dtype} [%i, %i]`,
      async (tokens, out, inFeatures) => {
        const x = randomTensor(1, [tokens, inFeatures])
        const weight = randomTensor(2, [out, inFeatures])
        const packed = await matrix(weight, dtype)
        const actual = await run((p) => linear(p, x, packed))
        const stored = await storedWeights(device(), packed, weight)
        const expected = reference(roundedRows(x, dtype, backend), stored, inFeatures)
        expect(nmse(actual.data, expected)).toBeLessThan(F32_NMSE)
      },
    )

    it(`gives a row the same bits alone, in any batch, twice, and with 1 or 3 threads, ${dtype}`, async () => {
      const x = randomTensor(3, [210, 771])
      const weight = randomTensor(4, [131, 771])
      const packed = await matrix(weight, dtype)
      const all = await run((p) => linear(p, x, packed))
      expectSameBits((await run((p) => linear(p, x, packed))).data, all.data)
      for (const size of [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 24, 25, 95, 96, 97]) {
        for (const begin of [0, 113]) {
          const some = await run((p) => linear(p, rows(x, begin, begin + size), packed))
          expectSameBits(some.data, rows(all, begin, begin + size).data)
        }
      }
      for (const threads of [1, 3]) {
        const other = await openOther(backend, threads)
        const again = await other.matrix(weight, dtype)
        expectSameBits((await other.run((p) => linear(p, x, again))).data, all.data)
        await other.dispose()
      }
    })

    // Of int4, 31 weights of the highest step beside a zero in each group: sums of 16 bits have room for this, barely.
    it(`adds up the largest products there can be, ${dtype}`, async () => {
      const [count, width] = [3, 256]
      const packed = await matrix(
        tensor(
          new Float32Array(33 * width).map((_, i) => (i % 32 ? 15 : 0)),
          [33, width],
        ),
        dtype,
      )
      const x = tensor(
        new Float32Array(count * width).map((_, i) => (i < width ? -1 : 1)),
        [count, width],
      )
      const out = await run((p) => linear(p, x, packed))
      const expected = new Float32Array(count * 33).map((_, i) => (i < 33 ? -1 : 1) * 15 * (width / 32) * 31)
      expect(nmse(out.data, expected)).toBeLessThan(2e-5)
    })

    it(`keeps NaN and infinity in their own row, ${dtype}`, async () => {
      const x = randomTensor(5, [9, 70])
      const clean = tensor(x.data.slice(), x.shape)
      x.data[4 * 70 + 69] = NaN
      x.data[5 * 70] = Infinity
      const packed = await matrix(randomTensor(6, [40, 70]), dtype)
      const out = await run((p) => linear(p, x, packed))
      const expected = await run((p) => linear(p, clean, packed))
      expect([...rows(out, 4, 5).data].every(Number.isNaN)).toBe(true)
      expect([...rows(out, 5, 6).data].some(Number.isFinite)).toBe(false)
      expectSameBits(rows(out, 0, 4).data, rows(expected, 0, 4).data)
      expectSameBits(rows(out, 6, 9).data, rows(expected, 6, 9).data)
    })
  }

  it('refuses x of another width, and a stack of matrices', async () => {
    const weight = await matrix(randomTensor(1, [4, 3]))
    const stack = await matrix(randomTensor(1, [2, 4, 3]))
    const x = randomTensor(2, [1, 2])
    await expectError(() => run((p) => linear(p, x, weight)), 'ERR_OPENMOE_INVALID_ARG', /linear: weight is/)
    const y = randomTensor(2, [1, 3])
    await expectError(() => run((p) => linear(p, y, stack)), 'ERR_OPENMOE_INVALID_ARG', /linear: weight is/)
  })
})
