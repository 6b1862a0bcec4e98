import { expect, it } from 'vitest'
import { add } from '../../lib/ops/add.ts'
import { add as reference } from '../reference/add.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, runWithThreads } from '../support/op_fixture.ts'
import { describeOp, f32, randomTensor } from './describe_op.ts'

const SHAPES = [
  [0, 8],
  [1, 1],
  [1, 31],
  [3, 5],
  [33, 100],
  [222, 768],
] as const

describeOp('add', ({ backend, run }) => {
  it('adds', async () => {
    const out = await run((p) => add(p, f32([1, -2], [1, 2]), f32([0.5, 2], [1, 2])))
    expect([...out.data]).toEqual([1.5, 0])
  })

  it('may add a tensor to itself', async () => {
    const x = f32([1, 2, 3], [3, 1])
    expect([...(await run((p) => add(p, x, x))).data]).toEqual([2, 4, 6])
  })

  it.each(SHAPES)(
    'is the sum rounded once, bit for bit, with any number of threads: %i x %i',
    async (...shape) => {
      const a = randomTensor(1, shape)
      const b = randomTensor(2, shape, 1e-3)
      expectSameBits((await run((p) => add(p, a, b))).data, reference(a.data, b.data))
      expectSameBits((await runWithThreads(backend, 1, (p) => add(p, a, b))).data, reference(a.data, b.data))
    },
  )

  it('refuses two shapes', async () => {
    const result = () => run((p) => add(p, f32([1, 2], [1, 2]), f32([1, 2], [2, 1])))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', /add: b is f32 \[2, 1\], expected f32 \[1, 2\]/)
  })
})
