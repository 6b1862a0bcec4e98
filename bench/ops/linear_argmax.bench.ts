import { linearArgmax } from '#lib/ops/linear_argmax'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, vocabSize, dtype, batches }) {
    const weight = await randomMatrix(device, dtype, {
      count: 1,
      outFeatures: vocabSize,
      inFeatures: hiddenSize,
    })
    return Promise.all(
      batches.map(async (rows) => {
        const x = await randomOn(device, 'f32', [rows, hiddenSize])
        return {
          name: `lm_head b=${rows}`,
          record: (p) => linearArgmax(p, x, weight),
          bytes: weight.bytes + 4 * rows * hiddenSize,
          flops: 2 * rows * vocabSize * hiddenSize,
          bound: rows <= 8 ? ('memory' as const) : ('compute' as const),
        }
      }),
    )
  },
}
