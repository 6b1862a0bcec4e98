import { swiglu } from '../../lib/ops/swiglu.ts'
import type { OpBench } from '../shapes.ts'
import { randomOn, TOKENS } from './random.ts'

const FLOPS = 24 // of an element: the exponential is about 20 of them

export const bench: OpBench = {
  async cases(device, { intermediateSize }) {
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const gateUp = await randomOn(device, 'f32', [tokens, 3 * intermediateSize])
        return {
          name,
          record: (p) => swiglu(p, gateUp),
          bytes: 4 * tokens * intermediateSize * 4,
          flops: FLOPS * tokens * intermediateSize,
          bound: 'memory',
        }
      }),
    )
  },
}
