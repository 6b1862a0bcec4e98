import { moeRouter } from '#lib/ops/moe_router'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { numExperts, hiddenSize, tokens: counts }) {
    const weight = await randomOn(device, 'f32', [numExperts, hiddenSize])
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name: `t=${tokens}`,
          record: (p) => moeRouter(p, x, weight).expertWeights,
          bytes: weight.bytes + tokens * (hiddenSize + numExperts + 4) * 4,
          flops: 2 * tokens * numExperts * hiddenSize,
          bound: tokens === 1 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
