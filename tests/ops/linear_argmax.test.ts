import { expect, it } from 'vitest'
import { linear } from '../../lib/ops/linear.ts'
import { linearArgmax } from '../../lib/ops/linear_argmax.ts'
import { sample } from '../../lib/ops/sample.ts'
import { type HostTensor, type Matrix, tensor } from '../../lib/tensor.ts'
import { linearArgmax as reference } from '../reference/linear_argmax.ts'
import { expectError } from '../support/expect_error.ts'
import { roundedRows, rows, storedWeights } from '../support/op_fixture.ts'
import { describeOp, f32, openOther, randomTensor } from './describe_op.ts'

// Around the edges of panels (32), tiles, blocks of k and items (96 rows).
const SHAPES = [
  ...[1, 2, 3, 8, 9, 12, 13, 97, 200].map((numRows) => [numRows, 67, 135] as const),
  ...[1, 2, 31, 32, 33, 63, 64, 65, 96].map((vocab) => [5, vocab, 40] as const),
  ...[1, 31, 32, 33, 129, 511, 770].map((inFeatures) => [14, 40, inFeatures] as const),
  [1, 5000, 96] as const,
]
const CLEAR = 1e-4

describeOp('linear_argmax', ({ backend, run, matrix, device, weightDtypes }) => {
  const take = async (x: HostTensor, weight: Matrix, vocabLimit?: number) => [
    ...(await run((p) => linearArgmax(p, x, weight, { vocabLimit }))).data,
  ]
  /** What the two ops take that it stands for. */
  const takeByTwo = async (x: HostTensor, weight: Matrix, vocabLimit?: number) => {
    const numRows = x.shape[0]!
    const floats = tensor(new Float32Array(6 * numRows), [numRows, 6])
    const ints = tensor(new Int32Array(9 * numRows), [numRows, 9])
    for (let row = 0; row < numRows; row++) {
      floats.data.set([0, 1, 0, 1, 0, 0], 6 * row)
      ints.data[9 * row + 8] = -1
    }
    return [
      ...(await run((p) => sample(p, linear(p, x, weight), { floats, ints }, { vocabLimit }).token)).data,
    ]
  }

  it('takes the id with the largest product, the lowest on ties', async () => {
    const weight = await matrix(f32([1, 0, 0, 1, 1, 0, 0, 1, -1, -1], [5, 2]))
    expect(await take(f32([3, 2, 2, 3, 0, 0, -1, -1, 1, 1], [5, 2]), weight)).toEqual([0, 1, 0, 4, 0])
    const zeros = await matrix(f32([-0, 0, -0, 0], [4, 1]))
    expect(await take(f32([1, -1], [2, 1]), zeros)).toEqual([0, 0])
  })

  it('takes the lowest of equal ids wherever they lie', async () => {
    const weights = randomTensor(1, [3000, 24], 0.1)
    const best = randomTensor(2, [24]).data
    for (const id of [71, 72, 95, 96, 1500, 2999]) weights.data.set(best, 24 * id)
    const weight = await matrix(weights)
    expect(await take(tensor(best, [1, 24]), weight)).toEqual([71])
  })

  for (const dtype of weightDtypes) {
    it.each(SHAPES)(
      `agrees with the reference at %i rows, ${dtype} [%i, %i]`,
      async (numRows, vocab, inFeatures) => {
        const x = randomTensor(1, [numRows, inFeatures])
        const weight = randomTensor(2, [vocab, inFeatures])
        const packed = await matrix(weight, dtype)
        const stored = await storedWeights(device(), packed, weight)
        const expected = reference(roundedRows(x, dtype, backend), stored, inFeatures, vocab)
        const actual = await take(x, packed)
        const unclear = expected.filter(({ id, margin }, row) => {
          if (margin > CLEAR) expect(actual[row], `row ${row}`).toBe(id)
          return margin <= CLEAR
        })
        // One input or few bits make equal products; more do not.
        if (inFeatures > 40) expect(unclear.length).toBeLessThan(0.05 * numRows + 1)
      },
    )

    it(`takes the very ids of linear and sample, alone, in any batch, and with 1 or 3 threads, ${dtype}`, async () => {
      const x = randomTensor(3, [113, 131])
      const weight = randomTensor(4, [20001, 131])
      weight.data.copyWithin(15000 * 131, 0, 2000 * 131) // ties, far apart
      const packed = await matrix(weight, dtype)
      const all = await take(x, packed)
      expect(all).toEqual(await takeByTwo(x, packed))
      for (const size of [1, 2, 7, 8, 13, 97]) {
        expect(await take(rows(x, 5, 5 + size), packed)).toEqual(all.slice(5, 5 + size))
      }
      for (const threads of [1, 3]) {
        const other = await openOther(backend, threads)
        const again = await other.matrix(weight, dtype)
        expect([...(await other.run((p) => linearArgmax(p, x, again))).data]).toEqual(all)
        await other.dispose()
      }
    })

    it(`masks the ids from vocab_limit on; 0 and more than there are mask none, ${dtype}`, async () => {
      const x = randomTensor(5, [40, 24])
      const packed = await matrix(randomTensor(6, [100, 24]), dtype)
      for (const limit of [1, 31, 32, 33, 64, 99, 100, 0, -1, 1000]) {
        const taken = await take(x, packed, limit)
        expect(taken).toEqual(await takeByTwo(x, packed, limit))
        expect(taken.every((id) => id >= 0 && (limit <= 0 || id < limit))).toBe(true)
      }
    })

    it(`gives -1 for a row with NaN or infinity, and leaves its neighbours alone, ${dtype}`, async () => {
      const x = randomTensor(7, [9, 70])
      const packed = await matrix(randomTensor(8, [300, 70]), dtype)
      const clean = await take(x, packed)
      x.data[4 * 70 + 69] = NaN
      x.data[5 * 70] = Infinity
      x.data[6 * 70 + 1] = -Infinity
      const taken = await take(x, packed)
      expect(taken).toEqual([...clean.slice(0, 4), -1, -1, -1, ...clean.slice(7)])
      expect(taken).toEqual(await takeByTwo(x, packed))
    })
  }

  it('treats what is not finite in a product as sample does: -Infinity is an id that is not taken', async () => {
    const x = f32([1, -1, 0], [3, 1])
    const broken = (values: Record<number, number>) => {
      const weights = randomTensor(9, [70, 1])
      for (const [id, value] of Object.entries(values)) weights.data[Number(id)] = value
      return matrix(weights)
    }
    const cases: Record<number, number>[] = [
      { 3: Infinity },
      { 3: -Infinity },
      { 3: NaN },
      { 69: Infinity, 2: -Infinity },
    ]
    for (const values of cases) {
      const weight = await broken(values)
      expect(await take(x, weight), JSON.stringify(values)).toEqual(await takeByTwo(x, weight))
      expect(await take(x, weight, 64)).toEqual(await takeByTwo(x, weight, 64))
    }
    expect(await take(f32([1], [1, 1]), await broken({ 3: -Infinity }))).not.toContain(-1)
    expect(await take(f32([1], [1, 1]), await broken({ 69: NaN }), 69)).not.toContain(-1)
    const nothing = await matrix(f32([-Infinity, -Infinity], [2, 1]))
    expect(await take(f32([1], [1, 1]), nothing)).toEqual([-1])
  })

  it('takes id 0 where there are no inputs: all products are zero', async () => {
    expect(await take(f32([], [2, 0]), await matrix(f32([], [5, 0])))).toEqual([0, 0])
  })

  it('returns nothing for no rows', async () => {
    expect(await take(f32([], [0, 3]), await matrix(randomTensor(1, [4, 3])))).toEqual([])
  })

  it('refuses x of another width, a stack of matrices, and a target of another size', async () => {
    const weight = await matrix(randomTensor(1, [4, 3]))
    const stack = await matrix(randomTensor(1, [2, 4, 3]))
    const x = randomTensor(2, [1, 3])
    const refused = (body: Parameters<typeof run>[0], message: RegExp) =>
      expectError(() => run(body), 'ERR_OPENMOE_INVALID_ARG', message)
    await refused((p) => linearArgmax(p, randomTensor(2, [1, 2]), weight), /linear_argmax: weight is/)
    await refused((p) => linearArgmax(p, x, stack), /linear_argmax: weight is/)
    await refused(
      (p) => linearArgmax(p, x, weight, { token: p.alloc('i32', [2]) }),
      /linear_argmax: token is i32 \[2\], expected i32 \[1\]/,
    )
  })
})
