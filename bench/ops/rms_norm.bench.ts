import { rmsNorm } from '#lib/ops/rms_norm'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, tokens: counts }) {
    const weight = await randomOn(device, 'f32', [hiddenSize])
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name: `t=${tokens}`,
          record: (p) => rmsNorm(p, x, weight),
          bytes: (2 * tokens + 1) * hiddenSize * 4,
          flops: 4 * tokens * hiddenSize,
          bound: 'memory',
        }
      }),
    )
  },
}
