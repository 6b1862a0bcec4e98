import { swiglu } from '#lib/ops/swiglu'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

const FLOPS = 24 // of an element: the exponential is about 20 of them

export const bench: OpBench = {
  async cases(device, { intermediateSize, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const gateUp = await randomOn(device, 'f32', [tokens, 3 * intermediateSize])
        return {
          name: `t=${tokens}`,
          record: (p) => swiglu(p, gateUp),
          bytes: 4 * tokens * intermediateSize * 4,
          flops: FLOPS * tokens * intermediateSize,
          bound: 'memory',
        }
      }),
    )
  },
}
