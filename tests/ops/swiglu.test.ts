import { expect, it } from 'vitest'
import { swiglu } from '../../lib/ops/swiglu.ts'
import { tensor } from '../../lib/tensor.ts'
import { silu, swiglu as reference } from '../reference/swiglu.ts'
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
import { describeOp, f32, nmse, randomTensor } from './describe_op.ts'

const SHAPES = [
  [0, 8],
  [1, 1],
  [1, 3],
  [5, 31],
  [33, 100],
  [7, 2048],
  [222, 96],
] as const

describeOp('swiglu', ({ backend, run }) => {
  /** silu of each b, seen through a = up = 1. */
  const siluOf = async (b: readonly number[]) => {
    const ones = b.map(() => 1)
    return (await run((p) => swiglu(p, f32([...ones, ...b, ...ones], [1, 3 * b.length])))).data
  }

  it('activates the second part, not the first', async () => {
    const out = await run((p) => swiglu(p, f32([-5, 1, 2], [1, 3])))
    expect(out.data[0]).toBeCloseTo(-5 * silu(1) * 2, 6)
  })

  it('matches the golden fixture', async () => {
    const get = await opFixture('swiglu')
    const [count = 0, width = 0] = get('up').shape
    const gateUp = new Float32Array(count * 3 * width)
    for (let r = 0; r < count; r++) {
      gateUp.set(rows(get('gate'), r, r + 1).data, r * 3 * width)
      gateUp.set(rows(get('up'), r, r + 1).data, r * 3 * width + 2 * width)
    }
    const out = await run((p) => swiglu(p, tensor(gateUp, [count, 3 * width])))
    expectClose(out.data, get('y').data, opsJson<{ atol: number; rtol: number }>('swiglu'))
  })

  it.each(SHAPES)('agrees with the reference at %i x %i', async (count, width) => {
    const gateUp = randomTensor(1, [count, 3 * width], 4)
    const out = await run((p) => swiglu(p, gateUp))
    expect(nmse(out.data, reference(gateUp.data, width))).toBeLessThan(F32_NMSE)
  })

  // exp() within 2 ulp, then a sum, a quotient: 3 * 2^-23 relative. Beyond 87 the sum may not even be a float.
  it('is accurate to the last bits wherever exp(-b) is a normal number', async () => {
    const b = Array.from({ length: 6997 }, (_, i) => Math.fround(-87 + i * 0.025))
    const out = await siluOf(b)
    b.forEach((x, i) => {
      const error = Math.abs(out[i]! - silu(x)) / Math.abs(silu(x) || 1)
      expect(error, `silu(${x})`).toBeLessThanOrEqual(3 * 2 ** -23)
    })
  })

  it('vanishes for very negative b, is b for large b, and is never NaN', async () => {
    const out = await siluOf([-88, -100, -1e10, -3e38, -Infinity, 88, 100, 3e38, Infinity, 0, -0])
    for (const x of out.slice(0, 5)) expect(Math.abs(x)).toBeLessThan(1e-35)
    expect([...out.slice(5)]).toEqual([88, 100, Math.fround(3e38), Infinity, 0, -0])
  })

  it('keeps NaN visible', async () => {
    expect([...(await siluOf([NaN, 0]))]).toEqual([NaN, 0])
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const gateUp = randomTensor(1, [100, 3 * 101])
    const all = await run((p) => swiglu(p, gateUp))
    expectSameBits((await run((p) => swiglu(p, gateUp))).data, all.data)
    expectSameBits((await runWithThreads(backend, 1, (p) => swiglu(p, gateUp))).data, all.data)
    const alone = await run((p) => swiglu(p, rows(gateUp, 61, 62)))
    expectSameBits(alone.data, rows(all, 61, 62).data)
  })

  it('refuses columns that are no three parts', async () => {
    const result = () => run((p) => swiglu(p, f32([1, 2], [1, 2])))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', /swiglu: gate_up has 2 columns/)
  })
})
