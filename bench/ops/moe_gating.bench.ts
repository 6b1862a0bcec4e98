import { moeGating } from '../../lib/ops/moe_gating.ts'
import type { OpBench } from '../shapes.ts'
import { randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  cases(device, { numExperts }) {
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const logits = await randomOn(device, 'f32', [tokens, numExperts])
        return {
          name,
          record: (p) => moeGating(p, logits).expertWeights,
          bytes: tokens * (numExperts * 4 + 16),
          flops: tokens * numExperts * 18, // an exponential
          bound: 'compute',
        }
      }),
    )
  },
}
