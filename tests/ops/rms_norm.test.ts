import { expect, it } from 'vitest'
import { rmsNorm } from '../../lib/ops/rms_norm.ts'
import { rmsNorm as reference } from '../reference/rms_norm.ts'
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

const SHAPES = [0, 1, 5, 33, 222].flatMap((tokens) =>
  [1, 3, 31, 96, 511, 2048].map((width) => [tokens, width] as const),
)

describeOp('rms_norm', ({ backend, run }) => {
  it('divides a row by its root mean square and scales it by the weight', async () => {
    const out = await run((p) => rmsNorm(p, f32([3, -3, 0.5, 0.5], [2, 2]), f32([1, 10]), 0))
    expect([...out.data]).toEqual([1, -10, 1, 10])
  })

  it('leaves a row of zeros zero', async () => {
    const out = await run((p) => rmsNorm(p, f32([0, 0, 0], [1, 3]), f32([1, 1, 1]), 1e-6))
    expect([...out.data]).toEqual([0, 0, 0])
  })

  it('matches the golden fixture', async () => {
    const get = await opFixture('rms_norm')
    const { eps, ...tolerance } = opsJson<{ eps: number; atol: number; rtol: number }>('rms_norm')
    const out = await run((p) => rmsNorm(p, get('x'), get('weight'), eps))
    expectClose(out.data, get('y').data, tolerance)
  })

  it.each(SHAPES)('agrees with the reference at %i tokens of %i', async (tokens, width) => {
    const x = randomTensor(1, [tokens, width], 3)
    const weight = randomTensor(2, [width])
    const out = await run((p) => rmsNorm(p, x, weight, 1e-6))
    expect(nmse(out.data, reference(x.data, weight.data, 1e-6))).toBeLessThan(F32_NMSE)
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const x = randomTensor(1, [150, 511])
    const weight = randomTensor(2, [511])
    const all = await run((p) => rmsNorm(p, x, weight))
    expectSameBits((await run((p) => rmsNorm(p, x, weight))).data, all.data)
    expectSameBits((await runWithThreads(backend, 1, (p) => rmsNorm(p, x, weight))).data, all.data)
    for (const t of [0, 77, 149]) {
      const alone = await run((p) => rmsNorm(p, rows(x, t, t + 1), weight))
      expectSameBits(alone.data, rows(all, t, t + 1).data)
    }
  })

  it('keeps NaN in its own row', async () => {
    const out = await run((p) => rmsNorm(p, f32([NaN, 1, 2, 2], [2, 2]), f32([1, 1]), 0))
    expect([...out.data]).toEqual([NaN, NaN, 1, 1])
  })

  it('refuses a weight of another width', async () => {
    const result = () => run((p) => rmsNorm(p, f32([1, 2], [1, 2]), f32([1])))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', /rms_norm: weight is f32 \[1\], expected f32 \[2\]/)
  })
})
