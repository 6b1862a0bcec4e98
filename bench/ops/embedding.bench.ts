import { embedding } from '../../lib/ops/embedding.ts'
import type { OpBench } from '../shapes.ts'
import { i32, randomOn, TOKENS } from './random.ts'

export const bench: OpBench = {
  async cases(device, { vocabSize, hiddenSize, dtype }) {
    const table = await randomOn(device, dtype, [vocabSize, hiddenSize])
    return TOKENS.map(({ name, tokens }) => {
      const ids = i32(Array.from({ length: tokens }, (_, t) => (t * 7919) % vocabSize))
      return {
        name,
        record: (p) => embedding(p, table, ids),
        bytes: tokens * hiddenSize * ((dtype === 'f32' ? 4 : 2) + 4),
        flops: 0,
        bound: 'memory',
      }
    })
  },
}
