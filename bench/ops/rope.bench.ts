import { rope, ropeTable } from '#lib/ops/rope'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { numHeads, headDim, tokens: counts }) {
    const table = await device.upload(ropeTable(2048, headDim, 10000))
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, numHeads * headDim])
        const positions = i32(Array.from({ length: tokens }, (_, t) => t))
        return {
          name: `t=${tokens}`,
          record: (p) => rope(p, x, positions, table, { numHeads }),
          bytes: tokens * (2 * numHeads + 1) * headDim * 4,
          flops: 3 * tokens * numHeads * headDim,
          bound: 'memory',
        }
      }),
    )
  },
}
