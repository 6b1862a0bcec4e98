import { attention } from '../../lib/ops/attention.ts'
import type { OpBench } from '../shapes.ts'
import { pagedBatch, randomOn } from './random.ts'

const CASES = [
  { name: 'decode  b=1 at 2048', numSeqs: 1, rows: 1, length: 2048, bound: 'memory' },
  { name: 'decode  b=8 at 2048', numSeqs: 8, rows: 1, length: 2048, bound: 'memory' },
  { name: 'prefill t=512', numSeqs: 1, rows: 512, length: 512, bound: 'compute' },
] as const

export const bench: OpBench = {
  async cases(device, shape) {
    const { numHeads, numKvHeads, headDim } = shape
    return Promise.all(
      CASES.map(async ({ name, bound, ...sizes }) => {
        const { numSeqs, rows, length } = sizes
        const tokens = numSeqs * rows
        const { cache, batch } = await pagedBatch(device, shape, sizes)
        const q = await randomOn(device, 'f32', [tokens, numHeads * headDim])
        const keysSeen = tokens * (length - rows) + (numSeqs * rows * (rows + 1)) / 2
        const cached = numSeqs * length * numKvHeads * headDim * 2 * (shape.dtype === 'f32' ? 4 : 2)
        return {
          name,
          record: (p) => attention(p, q, cache, batch, { numHeads, numKvHeads, headDim }),
          bytes: cached + 2 * tokens * numHeads * headDim * 4,
          flops: 4 * keysSeen * numHeads * headDim,
          bound,
        }
      }),
    )
  },
}
