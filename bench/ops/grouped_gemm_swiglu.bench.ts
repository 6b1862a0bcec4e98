import { groupedGemmSwiglu } from '#lib/ops/grouped_gemm_swiglu'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'
import { spread } from './random_route.ts'

const TOP_K = 2

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, numExperts, dtype, tokens: counts }) {
    const outFeatures = 3 * intermediateSize
    const shape = { count: numExperts, outFeatures, inFeatures: hiddenSize, layout: 'gate_up' } as const
    const weight = await randomMatrix(device, dtype, shape)
    return Promise.all(
      counts.map(async (tokens) => {
        const rows = TOP_K * tokens
        const busy = Math.min(rows, numExperts)
        const x = await randomOn(device, 'f32', [rows, hiddenSize])
        return {
          name: `t=${tokens}`,
          record: (p) => groupedGemmSwiglu(p, x, weight, i32(spread(rows, numExperts))),
          bytes: (weight.bytes / numExperts) * busy + 4 * rows * (hiddenSize + intermediateSize),
          flops: 2 * rows * hiddenSize * outFeatures,
          bound: rows / busy <= 8 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
