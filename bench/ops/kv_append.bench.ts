import { kvAppend } from '#lib/ops/kv_append'
import { bytesPerElement } from '#lib/tensor'
import { floatDtype } from '#lib/model/weights'
import type { OpBench } from '../ops.ts'
import { attentionCases, pagedBatch, randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, shape) {
    const width = shape.numKvHeads * shape.headDim
    return Promise.all(
      attentionCases(shape).map(async ({ name, ...sizes }) => {
        const tokens = sizes.numSeqs * sizes.rows
        const { cache, batch } = await pagedBatch(device, shape, sizes)
        const k = await randomOn(device, 'f32', [tokens, width])
        const v = await randomOn(device, 'f32', [tokens, width])
        return {
          name,
          record: (p) => kvAppend(p, k, v, cache, batch),
          bytes: 2 * tokens * width * (4 + bytesPerElement(floatDtype(shape.dtype))),
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
