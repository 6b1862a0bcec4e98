import { moeUnpermute } from '../../lib/ops/moe_unpermute.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  cases(device, { hiddenSize }) {
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const permuted = await randomOn(device, 'f32', [2 * tokens, hiddenSize])
        const weights = await randomOn(device, 'f32', [tokens, 2])
        const rowOrder = [...Array(2 * tokens).keys()].sort(() => Math.random() - 0.5)
        const route = { rowIdMap: i32(rowOrder, [tokens, 2]), expertOffsets: i32([0, 2 * tokens]) }
        return {
          name,
          record: (p) => moeUnpermute(p, permuted, route, weights),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: 4 * tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
