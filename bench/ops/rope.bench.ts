import { rope, ropeTable } from '../../lib/ops/rope.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  async cases(device, { numHeads, headDim }) {
    const table = await device.upload(ropeTable(2048, headDim, 10000))
    return Promise.all(
      TOKENS.map(async ({ name, tokens }) => {
        const x = await randomOn(device, 'f32', [tokens, numHeads * headDim])
        const positions = i32(Array.from({ length: tokens }, (_, t) => t))
        return {
          name,
          record: (p) => rope(p, x, positions, table, { numHeads }),
          bytes: tokens * (2 * numHeads + 1) * headDim * 4,
          flops: 3 * tokens * numHeads * headDim,
          bound: 'memory',
        }
      }),
    )
  },
}
