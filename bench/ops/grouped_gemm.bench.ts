import { groupedGemm } from '../../lib/ops/grouped_gemm.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomHost, randomOn, TOKENS } from './random.ts'

const TOP_K = 2

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, numExperts, dtype }) {
    const outFeatures = 3 * intermediateSize
    const shape = { count: numExperts, outFeatures, inFeatures: hiddenSize }
    // One expert's weights for all: packing random numbers for each would take minutes.
    const weight = device.emptyMatrix(dtype, shape)
    void randomHost
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const rows = tokens * TOP_K
        const used = Math.min(rows, numExperts)
        const offsets = Array.from({ length: numExperts + 1 }, (_, e) => Math.floor((rows * Math.min(e, used)) / used))
        const x = await randomOn(device, 'f32', [rows, hiddenSize])
        return {
          name,
          record: (p) => groupedGemm(p, x, weight, i32(offsets)),
          bytes: (weight.bytes / numExperts) * used + 4 * rows * (hiddenSize + outFeatures),
          flops: 2 * rows * hiddenSize * outFeatures,
          bound: rows / used <= 8 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
