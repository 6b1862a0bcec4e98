import { embedding } from '#lib/ops/embedding'
import { bytesPerElement } from '#lib/tensor'
import { floatDtype } from '#lib/model/weights'
import type { OpBench } from '../ops.ts'
import { i32, randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { vocabSize, hiddenSize, dtype, tokens: counts }) {
    const table = await randomOn(device, floatDtype(dtype), [vocabSize, hiddenSize])
    return counts.map((tokens) => {
      const ids = i32(Array.from({ length: tokens }, (_, t) => (t * 7919) % vocabSize))
      return {
        name: `t=${tokens}`,
        record: (p) => embedding(p, table, ids),
        bytes: tokens * hiddenSize * (bytesPerElement(floatDtype(dtype)) + 4),
        flops: 0,
        bound: 'memory',
      }
    })
  },
}
