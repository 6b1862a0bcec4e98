// What a step cannot do without, counted by hand for a network small enough.
import { describe, expect, it } from 'vitest'
import { syntheticConfig } from '../../bench/model/config.ts'
import { stepWork } from '../../bench/model/work.ts'
import { SHAPES } from '../../bench/shapes.ts'
import type { DecoderLayerWeights } from '../../lib/layers/decoder_layer.ts'
import type { ModelWeights } from '../../lib/model/weights.ts'
import { type HostTensor, tensor } from '../../lib/tensor.ts'

const config = syntheticConfig({
  ...SHAPES[0]!,
  hiddenSize: 10,
  intermediateSize: 6,
  numHeads: 1,
  numKvHeads: 1,
  headDim: 10,
  numExperts: 4,
  vocabSize: 100,
  layers: 2,
  moeLayerInterval: 2,
})

/** f32; everything but sizes is left out. */
const matrix = (outFeatures: number, inFeatures: number, count = 1) => ({
  ...{ outFeatures, inFeatures, count },
  bytes: 4 * count * outFeatures * inFeatures,
})
const square = matrix(10, 10)
const attention = { q: square, k: square, v: square, o: square }
const mlp = { gateUp: matrix(18, 10), down: matrix(10, 6) }
const experts = { router: { bytes: 4 * 4 * 10 }, gateUp: matrix(18, 10, 4), down: matrix(10, 6, 4) }
const layers = [
  { attention, mlp },
  { attention, moe: { experts, extraMlp: mlp } },
] as unknown as DecoderLayerWeights[]
const weights = { embedTokens: { bytes: 4000 }, layers, lmHead: matrix(100, 10) } as unknown as ModelWeights

function workOf(sequences: { tokens: number; position: number }[], choices: number[]) {
  const taps = new Map<string, HostTensor>([
    ['moe.1.topk_index', tensor(Int32Array.from(choices), [choices.length / 2, 2])],
  ])
  return Object.fromEntries(stepWork(config, weights, 'f32', { sequences }, taps))
}

describe('the least work of a step', () => {
  it('of a prompt has keys and values of all rows in the last layer, and of its last row the rest', () => {
    const seen = 1 + 2 + 3 // keys, by the rows of the first layer; the last row alone sees 3
    expect(workOf([{ tokens: 3, position: 0 }], [0, 1, 1, 2, 2, 3])).toEqual({
      'embed_tokens.embedding': { bytes: 3 * 40, flops: 0 },
      'attention.linear_qkv': { bytes: 6 * 400, flops: 200 * (3 * 3 + 2 * 3 + 1) },
      'attention.linear': { bytes: 2 * 400, flops: 200 * (3 + 1) },
      'attention.attention': { bytes: 2 * 3 * 80, flops: 40 * (seen + 3) },
      'mlp.grouped_gemm_swiglu': { bytes: 720, flops: 360 * 3 },
      'mlp.linear': { bytes: 240, flops: 120 * 3 },
      'moe.moe_router': { bytes: 160, flops: 80 },
      'moe.grouped_gemm_swiglu': { bytes: 720 * 2, flops: 360 * 2 }, // experts 2 and 3
      'moe.grouped_gemm': { bytes: 240 * 2, flops: 120 * 2 },
      'extra_mlp.grouped_gemm_swiglu': { bytes: 720, flops: 360 },
      'extra_mlp.linear': { bytes: 240, flops: 120 },
      'lm_head.linear_argmax': { bytes: 4000, flops: 2000 },
    })
  })

  it('of several sequences has the last row of each', () => {
    const sequences = [
      { tokens: 2, position: 4 },
      { tokens: 1, position: 7 },
    ]
    const work = workOf(sequences, [3, 2, 0, 1, 1, 0])
    expect(work['moe.grouped_gemm']).toEqual({ bytes: 240 * 2, flops: 120 * 4 }) // experts 0 and 1
    expect(work['attention.attention']).toEqual({
      bytes: 2 * (6 + 8) * 80,
      flops: 40 * (5 + 6 + 8 + 6 + 8),
    })
    expect(work['lm_head.linear_argmax']).toEqual({ bytes: 4000, flops: 4000 })
  })

  it('of a decode step is that of all rows', () => {
    const work = workOf([{ tokens: 1, position: 2 }], [0, 3])
    expect(work['attention.linear_qkv']).toEqual({ bytes: 6 * 400, flops: 200 * 6 })
    expect(work['moe.grouped_gemm']).toEqual({ bytes: 240 * 2, flops: 240 })
  })
})
