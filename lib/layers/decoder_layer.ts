import type { BatchLayout, KvPages } from '../ops/kv_append.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import type { Program } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { attention, type AttentionConfig, type AttentionWeights, type RowPositions } from './attention.ts'
import { denseMlp, type MlpWeights } from './dense_mlp.ts'
import { type CapacityGroups, moe, type MoeWeights } from './moe.ts'

export interface DecoderLayerWeights {
  /** f32 [hidden_size] */
  inputNorm: Tensor
  attention: AttentionWeights
  postAttentionNorm: Tensor
  /** Dense layers only. */
  mlp?: MlpWeights
  /** MoE layers only. */
  moe?: { experts: MoeWeights; preExtraMlpNorm: Tensor; extraMlp: MlpWeights }
}

export interface DecoderLayerConfig extends AttentionConfig {
  rmsNormEps: number
  topK: number
  numExperts: number
}

/** What a layer needs to know of the run besides its input. */
export interface LayerBatch {
  rows: RowPositions
  layout: BatchLayout
  groups: CapacityGroups
  /** i32 [2]: 0 and the number of rows */
  allRows: Tensor
}

/**
 * One block (spec section 3): attention, then the dense FFN, or MoE followed by the extra FFN with a norm of its own
 * (sequential as in code and weights, not the parallel sum of the paper's Eq. 4).
 */
export function decoderLayer(
  p: Program,
  x: Tensor,
  w: DecoderLayerWeights,
  config: DecoderLayerConfig,
  index: number,
  cache: KvPages,
  batch: LayerBatch,
): Tensor {
  const norm = (input: Tensor, weight: Tensor): Tensor => rmsNorm(p, input, weight, config.rmsNormEps)
  const branch = (name: string, body: () => Tensor): Tensor => p.scope(name, body)

  const attentionInput = { x: norm(x, w.inputNorm), residual: x }
  x = branch('attention', () =>
    attention(p, attentionInput, w.attention, config, batch.rows, cache, batch.layout),
  )
  p.tap(`after_attention.${index}`, x)

  const normed = norm(x, w.postAttentionNorm)
  if (w.moe) {
    const { experts, preExtraMlpNorm, extraMlp } = w.moe
    const input = { x: normed, residual: x }
    x = branch('moe', () => moe(p, input, experts, config, batch.groups, `moe.${index}`))
    const extra = { x: norm(x, preExtraMlpNorm), residual: x, allRows: batch.allRows }
    x = branch('extra_mlp', () => denseMlp(p, extra, extraMlp))
  } else if (w.mlp) {
    const { mlp } = w
    const dense = { x: normed, residual: x, allRows: batch.allRows }
    x = branch('mlp', () => denseMlp(p, dense, mlp))
  }
  p.tap(`hidden.${index}`, x)
  return x
}
