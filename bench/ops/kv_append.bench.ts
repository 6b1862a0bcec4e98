import { kvAppend } from '../../lib/ops/kv_append.ts'
import type { OpBench } from '../shapes.ts'
import { pagedBatch, randomOn } from './random.ts'

const CASES = [
  { name: 'decode  b=1 at 2048', numSeqs: 1, rows: 1, length: 2048 },
  { name: 'decode  b=8 at 2048', numSeqs: 8, rows: 1, length: 2048 },
  { name: 'prefill t=512', numSeqs: 1, rows: 512, length: 512 },
]

export const bench: OpBench = {
  async cases(device, shape) {
    const width = shape.numKvHeads * shape.headDim
    return Promise.all(
      CASES.map(async ({ name, ...sizes }) => {
        const tokens = sizes.numSeqs * sizes.rows
        const { cache, batch } = await pagedBatch(device, shape, sizes)
        const k = await randomOn(device, 'f32', [tokens, width])
        const v = await randomOn(device, 'f32', [tokens, width])
        return {
          name,
          record: (p) => {
            kvAppend(p, k, v, cache, batch)
            return []
          },
          bytes: 2 * tokens * width * (4 + (shape.dtype === 'f32' ? 4 : 2)),
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
