import { describe, expect, it } from 'vitest'
import { rope, ropeTable } from '../../lib/ops/rope.ts'
import { tensor } from '../../lib/tensor.ts'
import { rope as reference } from '../reference/rope.ts'
import { expectError } from '../support/expect_error.ts'
import {
  expectClose,
  expectSameBits,
  F32_NMSE,
  opFixture,
  opsJson,
  rows,
  runWithThreads,
} from '../support/op_fixture.ts'
import { describeOp, f32, i32, nmse, randomTensor } from './describe_op.ts'

const THETA = 10000

interface RopeBounds {
  atol: number
  atol_low_positions: number
}

/** Tensors of one head size, and the fixture's cos and sin (given for both halves) as our table. */
async function goldenRope(headDim: number) {
  const fixture = await opFixture('rope')
  const get = (name: string) => fixture(`d${headDim}.${name}`)
  const count = get('positions').data.length
  const cosSin = new Float32Array(count * headDim)
  for (let t = 0; t < count; t++) {
    cosSin.set(rows(get('cos'), t, t + 1).data.slice(0, headDim / 2), t * headDim)
    cosSin.set(rows(get('sin'), t, t + 1).data.slice(0, headDim / 2), t * headDim + headDim / 2)
  }
  return { get, cosSin: tensor(cosSin, [count, headDim]) }
}

describe('ropeTable', () => {
  it('has cosines, then sines; position 0 turns nothing', () => {
    expect([...ropeTable(1, 4, THETA).data]).toEqual([1, 1, 0, 0])
  })

  it('turns the first pair by the position itself', () => {
    const { data } = ropeTable(4, 2, THETA)
    expect([...data.slice(6)]).toEqual([Math.fround(Math.cos(3)), Math.fround(Math.sin(3))])
  })

  // The fixture's theta^fraction is a last bit off the correctly rounded one in 4 of 64 columns (7, 10, 25, 27), which
  // a position multiplies. So y itself, a table entry times x, may miss atol_low_positions where |x| > 1.3.
  it.each([16, 128])('matches the golden cosines and sines of heads of %i', async (headDim) => {
    const { get, cosSin } = await goldenRope(headDim)
    const bounds = opsJson<RopeBounds>('rope')
    const table = ropeTable(2048, headDim, THETA)
    get('positions').data.forEach((position, t) => {
      const atol = position < 512 ? bounds.atol_low_positions : bounds.atol
      expectClose(rows(table, position, position + 1).data, rows(cosSin, t, t + 1).data, { atol })
    })
  })

  it('is the same in parts', () => {
    const { data } = ropeTable(40, 8, THETA)
    const parts = [ropeTable(24, 8, THETA), ropeTable(16, 8, THETA, 24)]
    expect(parts.flatMap((part) => [...part.data])).toEqual([...data])
  })

  it('refuses an odd head_dim', async () => {
    await expectError(
      () => ropeTable(4, 3, THETA),
      'ERR_OPENMOE_INVALID_ARG',
      /head_dim is 3, expected an even/,
    )
  })
})

describeOp('rope', ({ backend, run }) => {
  it('turns column j together with column j + head_dim/2', async () => {
    const quarter = f32([0, 1, 1, 0], [1, 4]) // pair 0 by 90 degrees, pair 1 not at all
    const out = await run((p) => rope(p, f32([1, 2, 3, 4], [1, 4]), i32([0]), quarter, { numHeads: 1 }))
    expect([...out.data]).toEqual([-3, 2, 1, 4])
  })

  // With the fixture's own table: this is about the turn. Tables are compared above.
  it.each([16, 128])('matches the golden fixture with heads of %i', async (headDim) => {
    const { get, cosSin } = await goldenRope(headDim)
    const { atol_low_positions: atol } = opsJson<RopeBounds>('rope')
    const [count = 0, numHeads = 0] = get('x').shape
    const x = tensor(get('x').data, [count, numHeads * headDim])
    const row = i32(Array.from({ length: count }, (_, t) => t))
    const out = await run((p) => rope(p, x, row, cosSin, { numHeads }))
    expectClose(out.data, get('y').data, { atol })
  })

  it.each([0, 1, 5, 33, 222])('agrees with the reference at %i tokens', async (tokens) => {
    for (const [numHeads, headDim] of [
      [1, 2],
      [3, 6],
      [2, 16],
      [2, 24],
      [12, 64],
      [3, 128],
    ] as const) {
      const x = randomTensor(headDim, [tokens, numHeads * headDim])
      const positions = i32(Array.from({ length: tokens }, (_, t) => (t * 613) % 2048))
      const table = ropeTable(2048, headDim, THETA)
      const out = await run((p) => rope(p, x, positions, table, { numHeads }))
      const expected = reference(x.data, positions.data, { numHeads, headDim, theta: THETA })
      expect(nmse(out.data, expected)).toBeLessThan(F32_NMSE)
    }
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const x = randomTensor(1, [100, 12 * 64])
    const positions = i32(Array.from({ length: 100 }, (_, t) => t))
    const table = ropeTable(100, 64, THETA)
    const record = (p: Parameters<typeof rope>[0]) => rope(p, x, positions, table, { numHeads: 12 })
    const all = await run(record)
    expectSameBits((await run(record)).data, all.data)
    expectSameBits((await runWithThreads(backend, 1, record)).data, all.data)
    const alone = await run((p) => rope(p, rows(x, 61, 62), i32([61]), table, { numHeads: 12 }))
    expectSameBits(alone.data, rows(all, 61, 62).data)
  })

  it.each([-1, 8, 2 ** 31 - 1])('refuses position %i in a table of 8', async (position) => {
    const table = ropeTable(8, 2, THETA)
    const message = new RegExp(`rope: positions\\[1\\] is ${position}, expected at least 0 and below 8`)
    const result = run((p) => rope(p, f32([1, 2, 3, 4], [2, 2]), i32([0, position]), table, { numHeads: 1 }))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('refuses rows of another width than num_heads*head_dim', async () => {
    const result = () =>
      run((p) => rope(p, f32([1, 2], [1, 2]), i32([0]), ropeTable(1, 2, THETA), { numHeads: 2 }))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', /rope: x is f32 \[1, 2\], expected f32 \[1, 4\]/)
  })
})
