import { expect, it } from 'vitest'
import { widenBfloat16 } from '../../lib/checkpoint/safetensors.ts'
import { embedding } from '../../lib/ops/embedding.ts'
import { tensor } from '../../lib/tensor.ts'
import { embedding as reference } from '../reference/embedding.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, runWithThreads, toBf16 } from '../support/op_fixture.ts'
import { describeOp, f32, i32, randomTensor } from './describe_op.ts'

describeOp('embedding', ({ backend, run }) => {
  it('takes row ids[t], row 0 included', async () => {
    const out = await run((p) => embedding(p, f32([1, 2, 3, 4, 5, 6], [3, 2]), i32([2, 0, 2])))
    expect(out.shape).toEqual([3, 2])
    expect([...out.data]).toEqual([5, 6, 1, 2, 5, 6])
  })

  it.each([0, 1, 5, 33, 300])(
    'copies f32 rows and widens bf16 rows without rounding, %i tokens',
    async (n) => {
      for (const width of [1, 3, 8, 31, 100]) {
        const table = randomTensor(width, [50, width])
        const words = tensor(toBf16(table.data), [50, width])
        const ids = i32(Array.from({ length: n }, (_, t) => (t * 37) % 50))
        const out = await run((p) => [embedding(p, table, ids), embedding(p, words, ids)])
        const widened = widenBfloat16(words.data as Uint16Array)
        expectSameBits(out[0]!.data, Float32Array.from(reference(table.data, ids.data, width)))
        expectSameBits(out[1]!.data, Float32Array.from(reference(widened, ids.data, width)))
      }
    },
  )

  it('takes the row that `previous` names for an id below 0', async () => {
    const table = f32([1, 2, 3, 4, 5, 6], [3, 2])
    const out = await run((p) => embedding(p, table, i32([-1, 1, -3, -2]), i32([2, 0, 1])))
    expect([...out.data]).toEqual([5, 6, 3, 4, 3, 4, 1, 2])
  })

  it.each([
    [-2, -2],
    [-(2 ** 31), -(2 ** 31)],
    [-1, 7],
  ])('refuses the id %i, which names nothing', async (id, named) => {
    const result = run((p) => embedding(p, f32([1, 2, 3], [3, 1]), i32([0, id]), i32([7])))
    const message = new RegExp(`embedding: ids\\[1\\] is ${named}, expected at least 0 and below 3`)
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('gives the same bits with 1 and 2 threads', async () => {
    const table = randomTensor(1, [64, 1000])
    const ids = i32(Array.from({ length: 200 }, (_, t) => (t * 29) % 64))
    const one = await runWithThreads(backend, 1, (p) => embedding(p, table, ids))
    expectSameBits((await run((p) => embedding(p, table, ids))).data, one.data)
  })

  it.each([-1, 3, 2 ** 31 - 1, -(2 ** 31)])('refuses the id %i in a table of 3 rows', async (id) => {
    const message = new RegExp(`embedding: ids\\[1\\] is ${id}, expected at least 0 and below 3`)
    const result = run((p) => embedding(p, f32([1, 2, 3], [3, 1]), i32([0, id])))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('refuses ids that are no i32 vector', async () => {
    const result = () => run((p) => embedding(p, f32([1], [1, 1]), f32([0])))
    await expectError(
      result,
      'ERR_OPENMOE_INVALID_ARG',
      /embedding: ids is f32 \[1\], expected i32 \[num_tokens\]/,
    )
  })
})
