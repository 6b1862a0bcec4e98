import { add } from '#lib/ops/add'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const a = await randomOn(device, 'f32', [tokens, hiddenSize])
        const b = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name: `t=${tokens}`,
          record: (p) => add(p, a, b),
          bytes: 3 * tokens * hiddenSize * 4,
          flops: tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
