import { attention } from '#lib/ops/attention'
import { bytesPerElement } from '#lib/tensor'
import { floatDtype } from '#lib/model/weights'
import type { OpBench } from '../ops.ts'
import { attentionCases, pagedBatch, randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, shape) {
    const { numHeads, numKvHeads, headDim } = shape
    return Promise.all(
      attentionCases(shape).map(async ({ name, ...sizes }) => {
        const { numSeqs, rows, length } = sizes
        const tokens = numSeqs * rows
        const { cache, batch } = await pagedBatch(device, shape, sizes)
        const q = await randomOn(device, 'f32', [tokens, numHeads * headDim])
        const keysSeen = tokens * (length - rows) + (numSeqs * rows * (rows + 1)) / 2
        const cached = numSeqs * length * numKvHeads * headDim * 2 * bytesPerElement(floatDtype(shape.dtype))
        return {
          name,
          record: (p) => attention(p, q, cache, batch, { numHeads, numKvHeads, headDim }),
          bytes: cached + 2 * tokens * numHeads * headDim * 4,
          flops: 4 * keysSeen * numHeads * headDim,
          bound: rows === 1 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
