import { linearQkv } from '#lib/ops/linear_qkv'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, numHeads, numKvHeads, headDim, dtype, tokens: counts }) {
    const matrixOf = (heads: number) =>
      randomMatrix(device, dtype, { count: 1, outFeatures: heads * headDim, inFeatures: hiddenSize })
    const weights = {
      q: await matrixOf(numHeads),
      k: await matrixOf(numKvHeads),
      v: await matrixOf(numKvHeads),
    }
    const outFeatures = (numHeads + 2 * numKvHeads) * headDim
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name: `t=${tokens}`,
          record: (p) => linearQkv(p, x, weights),
          bytes: weights.q.bytes + 2 * weights.k.bytes + 4 * tokens * (hiddenSize + outFeatures),
          flops: 2 * tokens * hiddenSize * outFeatures,
          bound: tokens <= 8 ? ('memory' as const) : ('compute' as const),
        }
      }),
    )
  },
}
