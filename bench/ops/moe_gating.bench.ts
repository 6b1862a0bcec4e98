import { moeGating } from '#lib/ops/moe_gating'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

export const bench: OpBench = {
  cases(device, { numExperts, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const logits = await randomOn(device, 'f32', [tokens, numExperts])
        return {
          name: `t=${tokens}`,
          record: (p) => moeGating(p, logits).expertWeights,
          bytes: tokens * (numExperts * 4 + 16),
          flops: tokens * numExperts * 18, // an exponential
          bound: 'compute',
        }
      }),
    )
  },
}
