import { linear } from '#lib/ops/linear'
import type { OpBench, OpCase } from '../ops.ts'
import { randomOn } from './random.ts'
import { randomMatrix } from './random_matrix.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, intermediateSize, vocabSize, dtype, tokens: counts }) {
    const cases: OpCase[] = []
    for (const [layer, outFeatures, inFeatures] of [
      ['gate_up', 3 * intermediateSize, hiddenSize],
      ['down', hiddenSize, intermediateSize],
      ['lm_head', vocabSize, hiddenSize],
    ] as const) {
      const weight = await randomMatrix(device, dtype, { count: 1, outFeatures, inFeatures })
      for (const tokens of counts) {
        if (layer === 'lm_head' && tokens > 64) continue // of a prompt only the last token's logits are wanted
        const x = await randomOn(device, 'f32', [tokens, inFeatures])
        cases.push({
          name: `${layer} t=${tokens}`,
          record: (p) => linear(p, x, weight),
          bytes: weight.bytes + 4 * tokens * (inFeatures + outFeatures),
          flops: 2 * tokens * inFeatures * outFeatures,
          bound: tokens <= 8 ? 'memory' : 'compute',
        })
      }
    }
    return cases
  },
}
