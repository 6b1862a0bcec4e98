import { moeRouting } from '../../lib/ops/moe_routing.ts'
import type { OpBench } from '../shapes.ts'
import { i32, TOKENS } from './random.ts'

export const bench: OpBench = {
  cases(_, { numExperts }) {
    return Promise.resolve(
      TOKENS.map(({ name, tokens }) => {
        const options = { numExperts, groupOffsets: i32([0, tokens]), capacity: i32([-1]) }
        const choices = Array.from({ length: 2 * tokens }, () => Math.floor(numExperts * Math.random()))
        const ids = i32(choices, [tokens, 2])
        return {
          name,
          record: (p) => moeRouting(p, ids, options).rowIdMap,
          bytes: tokens * 2 * 12,
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
