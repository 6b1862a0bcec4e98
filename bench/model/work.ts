// What a step has to read and compute, exactly: every weight it needs once, for the experts its tokens were sent to.
import { isMoeLayer, type OpenMoeConfig } from '#lib/model/config'
import { kvBytesPerToken } from '#lib/model/kv_cache'
import type { MlpWeights } from '#lib/layers/dense_mlp'
import { floatDtype, type ModelWeights, type WeightDtype } from '#lib/model/weights'
import type { HostTensor, Matrix } from '#lib/tensor'
import type { Work } from '../roofline.ts'

export interface StepShape {
  /** New tokens of each sequence, and the positions before them. */
  sequences: readonly { tokens: number; position: number }[]
  logitRows: number
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

  const tokens = step.sequences.reduce((sum, s) => sum + s.tokens, 0)
  const dense = (part: string, { gateUp, down }: MlpWeights): void => {
    multiply(`${part}.grouped_gemm_swiglu`, gateUp, tokens)
    multiply(`${part}.linear`, down, tokens)
  }
  const { bytes: tableBytes } = weights.embedTokens
  spend('embed_tokens.embedding', (tokens * tableBytes) / config.vocabSize, 0)
  // A token at position p sees p + 1 keys. The keys and values of a sequence are read once for all of its new tokens.
  const seen = step.sequences.reduce(
    (sum, s) => sum + s.tokens * s.position + (s.tokens * (s.tokens + 1)) / 2,
    0,
  )
  const cached = step.sequences.reduce((sum, s) => sum + s.position + s.tokens, 0)
  const { numAttentionHeads, numKeyValueHeads: numKvHeads, headDim, topK } = config
  const kvBytes = kvBytesPerToken({ numLayers: 1, numKvHeads, headDim, dtype: floatDtype(dtype) })
  weights.layers.forEach((layer, i) => {
    for (const matrix of Object.values(layer.attention)) multiply('attention.linear', matrix, tokens)
    spend('attention.attention', cached * kvBytes, 4 * seen * numAttentionHeads * headDim)
    if (layer.mlp) dense('mlp', layer.mlp)
    if (!layer.moe || !isMoeLayer(config, i)) return
    const { router, gateUp, down } = layer.moe.experts
    const experts = new Set(taps.get(`moe.${i}.topk_index`)?.data ?? []).size
    spend('moe.moe_router', router.bytes, (2 * tokens * router.bytes) / 4)
    multiply('moe.grouped_gemm_swiglu', gateUp, tokens * topK, experts)
    multiply('moe.grouped_gemm', down, tokens * topK, experts)
    dense('extra_mlp', layer.moe.extraMlp)
  })
  if (step.logitRows > 0) multiply('lm_head.linear_argmax', weights.lmHead, step.logitRows)
  return parts
}

export function totalWork(parts: ReadonlyMap<string, Work>): Work {
  const all = [...parts.values()]
  return {
    bytes: all.reduce((sum, work) => sum + work.bytes, 0),
    flops: all.reduce((sum, work) => sum + work.flops, 0),
  }
}
