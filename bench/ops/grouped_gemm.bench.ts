import { groupedGemm } from '#lib/ops/grouped_gemm'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'
import { spread } from './random_route.ts'

const TOP_K = 2

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, numExperts, dtype, tokens: counts }) {
    const [outFeatures, inFeatures] = [hiddenSize, intermediateSize]
    const weight = await randomMatrix(device, dtype, { count: numExperts, outFeatures, inFeatures })
    return Promise.all(
      counts.map(async (tokens) => {
        const rows = TOP_K * tokens
        const busy = Math.min(rows, numExperts)
        const x = await randomOn(device, 'f32', [rows, inFeatures])
        return {
          name: `t=${tokens}`,
          record: (p) => groupedGemm(p, x, weight, i32(spread(rows, numExperts))),
          bytes: (weight.bytes / numExperts) * busy + 4 * rows * (inFeatures + outFeatures),
          flops: 2 * rows * inFeatures * outFeatures,
          bound: rows / busy <= 8 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
