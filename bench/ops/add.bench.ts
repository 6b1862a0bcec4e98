import { add } from '../../lib/ops/add.ts'
import type { OpBench } from '../shapes.ts'
import { randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize }) {
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const a = await randomOn(device, 'f32', [tokens, hiddenSize])
        const b = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name,
          record: (p) => add(p, a, b),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
