import { moePermute } from '../../lib/ops/moe_permute.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  cases(device, { hiddenSize }) {
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        const rowOrder = [...Array(2 * tokens).keys()].sort(() => Math.random() - 0.5)
        const route = { rowIdMap: i32(rowOrder, [tokens, 2]), expertOffsets: i32([0, 2 * tokens]) }
        return {
          name,
          record: (p) => moePermute(p, x, route),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
