import { groupedGemm } from '../../lib/ops/grouped_gemm.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomOn, TOKENS } from './random.ts'
import { randomMatrix } from './random_matrix.ts'

const TOP_K = 2

/** Rows spread evenly over as many experts as they can reach. */
function spread(rows: number, numExperts: number): number[] {
  const busy = Math.min(rows, numExperts)
  return Array.from({ length: numExperts + 1 }, (_, e) => Math.floor((rows * Math.min(e, busy)) / busy))
}

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, numExperts, dtype }) {
    const outFeatures = 3 * intermediateSize
    const shape = { count: numExperts, outFeatures, inFeatures: hiddenSize }
    const weight = await randomMatrix(device, dtype, shape)
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const rows = TOP_K * tokens
        const busy = Math.min(rows, numExperts)
        const x = await randomOn(device, 'f32', [rows, hiddenSize])
        return {
          name,
          record: (p) => groupedGemm(p, x, weight, i32(spread(rows, numExperts))),
          bytes: (weight.bytes / numExperts) * busy + 4 * rows * (hiddenSize + outFeatures),
          flops: 2 * rows * hiddenSize * outFeatures,
          bound: rows / busy <= 8 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
