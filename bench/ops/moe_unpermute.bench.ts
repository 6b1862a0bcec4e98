import { moeUnpermute } from '#lib/ops/moe_unpermute'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'

export const bench: OpBench = {
  cases(device, { hiddenSize, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const permuted = await randomOn(device, 'f32', [2 * tokens, hiddenSize])
        const weights = await randomOn(device, 'f32', [tokens, 2])
        const rowOrder = [...Array(2 * tokens).keys()].sort(() => Math.random() - 0.5)
        const route = { rowIdMap: i32(rowOrder, [tokens, 2]), expertOffsets: i32([0, 2 * tokens]) }
        return {
          name: `t=${tokens}`,
          record: (p) => moeUnpermute(p, permuted, route, weights),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: 4 * tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
