import { moeRouter } from '../../lib/ops/moe_router.ts'
import type { OpBench } from '../shapes.ts'
import { randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  async cases(device, { numExperts, hiddenSize }) {
    const weight = await randomOn(device, 'f32', [numExperts, hiddenSize])
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name,
          record: (p) => moeRouter(p, x, weight).expertWeights,
          bytes: weight.bytes + tokens * (hiddenSize + numExperts + 4) * 4,
          flops: 2 * tokens * numExperts * hiddenSize,
          bound: tokens === 1 ? 'memory' : 'compute',
        }
      }),
    )
  },
}
