// What a step has to read and compute, exactly: every weight it needs once, for the experts its tokens were sent to.
import { isMoeLayer, type OpenMoeConfig } from '#lib/model/config'
import { kvBytesPerToken } from '#lib/model/kv_cache'
import type { MlpWeights } from '#lib/layers/dense_mlp'
import { floatDtype, type ModelWeights, type WeightDtype } from '#lib/model/weights'
import type { HostTensor, Matrix, TypedArray } from '#lib/tensor'
import type { Work } from '../roofline.ts'

export interface StepShape {
  /** New tokens of each sequence, and the positions before them. The last token of each chooses the next. */
  sequences: readonly { tokens: number; position: number }[]
}

/** Work per part of the network, keyed as the labels of a recording are once `layers.N.` is left out. */
export function stepWork(
  config: OpenMoeConfig,
  weights: ModelWeights,
  dtype: WeightDtype,
  step: StepShape,
  taps: ReadonlyMap<string, HostTensor>,
): Map<string, Work> {
  const parts = new Map<string, Work>()
  const spend = (part: string, bytes: number, flops: number): void => {
    const work = parts.get(part) ?? { bytes: 0, flops: 0 }
    parts.set(part, { bytes: work.bytes + bytes, flops: work.flops + flops })
  }
  const multiply = (part: string, matrix: Matrix, rows: number, experts = matrix.count): void =>
    spend(part, (matrix.bytes / matrix.count) * experts, 2 * rows * matrix.outFeatures * matrix.inFeatures)

  const all = extent(step.sequences)
  const wanted = extent(step.sequences.map((s) => ({ tokens: 1, position: s.position + s.tokens - 1 })))
  const { bytes: tableBytes } = weights.embedTokens
  spend('embed_tokens.embedding', (all.tokens * tableBytes) / config.vocabSize, 0)
  const { numAttentionHeads, numKeyValueHeads: numKvHeads, headDim, topK } = config
  const kvBytes = kvBytesPerToken({ numLayers: 1, numKvHeads, headDim, dtype: floatDtype(dtype) })
  weights.layers.forEach((layer, i) => {
    // Of the last layer nobody reads more than the keys and values, and the rows that choose tokens.
    const { tokens, seen, cached } = i + 1 < weights.layers.length ? all : wanted
    const dense = (part: string, { gateUp, down }: MlpWeights): void => {
      multiply(`${part}.grouped_gemm_swiglu`, gateUp, tokens)
      multiply(`${part}.linear`, down, tokens)
    }
    const { q, k, v, o } = layer.attention
    for (const matrix of [k, v]) multiply('attention.linear_qkv', matrix, all.tokens)
    multiply('attention.linear_qkv', q, tokens)
    multiply('attention.linear', o, tokens)
    spend('attention.attention', cached * kvBytes, 4 * seen * numAttentionHeads * headDim)
    if (layer.mlp) dense('mlp', layer.mlp)
    if (!layer.moe || !isMoeLayer(config, i)) return
    const { router, gateUp, down } = layer.moe.experts
    const choices = taps.get(`moe.${i}.topk_index`)!.data
    const experts = new Set(tokens === all.tokens ? choices : lastChoices(choices, step, topK)).size
    spend('moe.moe_router', router.bytes, (2 * tokens * router.bytes) / 4)
    multiply('moe.grouped_gemm_swiglu', gateUp, tokens * topK, experts)
    multiply('moe.grouped_gemm', down, tokens * topK, experts)
    dense('extra_mlp', layer.moe.extraMlp)
  })
  multiply('lm_head.linear_argmax', weights.lmHead, wanted.tokens)
  return parts
}

/** How many rows there are, the keys they see in all, and how many keys and values have to be read for that. */
function extent(sequences: StepShape['sequences']): { tokens: number; seen: number; cached: number } {
  const sum = (of: (tokens: number, position: number) => number): number =>
    sequences.reduce((total, { tokens, position }) => total + of(tokens, position), 0)
  return {
    tokens: sum((tokens) => tokens),
    // A token at position p sees p + 1 keys. The keys and values of a sequence are read once for all of its new tokens.
    seen: sum((tokens, position) => tokens * position + (tokens * (tokens + 1)) / 2),
    cached: sum((tokens, position) => position + tokens),
  }
}

/** The experts that the last token of each sequence was sent to. */
function lastChoices(choices: TypedArray, { sequences }: StepShape, topK: number): number[] {
  let end = 0
  return sequences.flatMap(({ tokens }) => {
    end += tokens * topK
    return [...choices.subarray(end - topK, end)]
  })
}

export function totalWork(parts: ReadonlyMap<string, Work>): Work {
  const all = [...parts.values()]
  return {
    bytes: all.reduce((sum, work) => sum + work.bytes, 0),
    flops: all.reduce((sum, work) => sum + work.flops, 0),
  }
}
