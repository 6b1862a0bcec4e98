import { rmsNorm } from '../../lib/ops/rms_norm.ts'
import type { OpBench } from '../shapes.ts'
import { randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize }) {
    const weight = await randomOn(device, 'f32', [hiddenSize])
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name,
          record: (p) => rmsNorm(p, x, weight),
          bytes: (2 * tokens + 1) * hiddenSize * 4,
          flops: 4 * tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
