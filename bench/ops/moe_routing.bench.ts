import { moeRouting } from '#lib/ops/moe_routing'
import type { OpBench } from '../ops.ts'
import { i32 } from './random.ts'

export const bench: OpBench = {
  cases(_, { numExperts, tokens: counts }) {
    return Promise.resolve(
      counts.map((tokens) => {
        const options = { numExperts, groupOffsets: i32([0, tokens]), capacity: i32([-1]) }
        const choices = Array.from({ length: 2 * tokens }, () => Math.floor(numExperts * Math.random()))
        const ids = i32(choices, [tokens, 2])
        return {
          name: `t=${tokens}`,
          record: (p) => moeRouting(p, ids, options).rowIdMap,
          bytes: tokens * 2 * 12,
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
