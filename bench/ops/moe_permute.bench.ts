import { moePermute } from '#lib/ops/moe_permute'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'

export const bench: OpBench = {
  cases(device, { hiddenSize, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        const rowOrder = [...Array(2 * tokens).keys()].sort(() => Math.random() - 0.5)
        const route = { rowIdMap: i32(rowOrder, [tokens, 2]), expertOffsets: i32([0, 2 * tokens]) }
        return {
          name: `t=${tokens}`,
          record: (p) => moePermute(p, x, route),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
