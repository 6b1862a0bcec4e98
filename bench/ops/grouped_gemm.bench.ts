import { groupedGemm } from '#lib/ops/grouped_gemm'
import type { OpBench, OpCase } from '../ops.ts'
import { i32, randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'

const TOP_K = 2

/** Rows spread evenly over as many experts as they can reach. */
function spread(rows: number, numExperts: number): number[] {
  const busy = Math.min(rows, numExperts)
  return Array.from({ length: numExperts + 1 }, (_, e) => Math.floor((rows * Math.min(e, busy)) / busy))
}

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, numExperts, dtype, tokens: counts }) {
    const cases: OpCase[] = []
    for (const [layer, outFeatures, inFeatures] of [
      ['gate_up', 3 * intermediateSize, hiddenSize],
      ['down', hiddenSize, intermediateSize],
    ] as const) {
      const weight = await randomMatrix(device, dtype, { count: numExperts, outFeatures, inFeatures })
      for (const tokens of counts) {
        const rows = TOP_K * tokens
        const busy = Math.min(rows, numExperts)
        const x = await randomOn(device, 'f32', [rows, inFeatures])
        cases.push({
          name: `${layer} t=${tokens}`,
          record: (p) => groupedGemm(p, x, weight, i32(spread(rows, numExperts))),
          bytes: (weight.bytes / numExperts) * busy + 4 * rows * (inFeatures + outFeatures),
          flops: 2 * rows * inFeatures * outFeatures,
          bound: rows / busy <= 8 ? 'memory' : 'compute',
        })
      }
    }
    return cases
  },
}
