import { embedding } from '../ops/embedding.ts'
import type { KvPages } from '../ops/kv_append.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import type { Program } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import {
  appendKeys,
  type AttentionConfig,
  type AttentionLayer,
  type AttentionRows,
  type AttentionWeights,
  cachedAttention,
  selfAttention,
} from './attention.ts'
import { denseMlp, type MlpWeights } from './dense_mlp.ts'
import { type CapacityGroups, moe, type MoeWeights, observedRouter } from './moe.ts'

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

/** One block of the network, whatever the rows. */
export interface Layer {
  index: number
  weights: DecoderLayerWeights
  config: DecoderLayerConfig
  cache: KvPages
}

/** What a layer needs to know of the run besides its input. */
export interface LayerBatch extends AttentionRows {
  groups: CapacityGroups
  /** i32 [2]: 0 and the number of rows */
  allRows: Tensor
}

/** Rows of the last layer whose results are wanted. */
export interface WantedRows {
  /** From where on they alone are computed; `head`: all rows pass the whole layer. */
  from: 'attention' | 'ffn' | 'head'
  /** i32 [num_rows]; null: none is wanted */
  rows: Tensor | null
  /** Of these rows alone. */
  batch: LayerBatch
}

/**
 * One block (spec section 3): attention, then the dense FFN, or MoE followed by the extra FFN with a norm of its own
 * (sequential as in code and weights, not the parallel sum of the paper's Eq. 4).
 */
export function decoderLayer(p: Program, x: Tensor, layer: Layer, batch: LayerBatch): Tensor {
  const normed = norm(p, x, layer, layer.weights.inputNorm)
  x = attend(p, selfAttention, { x: normed, residual: x }, layer, batch)
  x = feedForward(p, x, layer, batch, `moe.${layer.index}`)
  p.tap(`hidden.${layer.index}`, x)
  return x
}

/**
 * The last block, and the rows of it that are wanted. Nothing reads the others but the cache, which gets all keys and
 * values, and observers. Every op computes a row as if it were alone, so where they end does not show.
 * @returns f32 [num_rows, hidden_size], or null
 */
export function lastLayer(
  p: Program,
  x: Tensor,
  layer: Layer,
  batch: LayerBatch,
  wanted: WantedRows,
): Tensor | null {
  const { from, rows } = wanted
  if (from === 'head') {
    x = decoderLayer(p, x, layer, batch)
    return rows && embedding(p, x, rows)
  }
  const { inputNorm, postAttentionNorm, moe: mixture } = layer.weights
  const normed = norm(p, x, layer, inputNorm)
  if (from === 'attention') {
    p.scope('attention', () => appendKeys(p, normed, attentionOf(layer), batch))
  } else {
    x = attend(p, selfAttention, { x: normed, residual: x }, layer, batch)
    if (mixture) {
      const routed = norm(p, x, layer, postAttentionNorm)
      const { router } = mixture.experts
      p.scope('moe', () => observedRouter(p, routed, router, layer.config.topK, `moe.${layer.index}`))
    }
  }
  if (!rows) return null
  x = embedding(p, x, rows)
  if (from === 'attention') {
    x = attend(p, cachedAttention, { x: norm(p, x, layer, inputNorm), residual: x }, layer, wanted.batch)
  }
  return feedForward(p, x, layer, wanted.batch)
}

function attend(
  p: Program,
  attention: typeof selfAttention,
  input: { x: Tensor; residual: Tensor },
  layer: Layer,
  batch: AttentionRows,
): Tensor {
  const x = p.scope('attention', () => attention(p, input, attentionOf(layer), batch))
  p.tap(`after_attention.${layer.index}`, x)
  return x
}

/** The second half of a block. Without a name nobody observes it. */
function feedForward(p: Program, x: Tensor, layer: Layer, batch: LayerBatch, tapName?: string): Tensor {
  const { config, weights } = layer
  const { allRows, groups } = batch
  const normed = norm(p, x, layer, weights.postAttentionNorm)
  const { mlp, moe: mixture } = weights
  if (mixture) {
    const input = { x: normed, residual: x }
    x = p.scope('moe', () => moe(p, input, mixture.experts, config, groups, tapName))
    const extra = { x: norm(p, x, layer, mixture.preExtraMlpNorm), residual: x, allRows }
    x = p.scope('extra_mlp', () => denseMlp(p, extra, mixture.extraMlp))
  } else if (mlp) {
    const input = { x: normed, residual: x, allRows }
    x = p.scope('mlp', () => denseMlp(p, input, mlp))
  }
  return x
}

const norm = (p: Program, x: Tensor, { config }: Layer, weight: Tensor): Tensor =>
  rmsNorm(p, x, weight, config.rmsNormEps)

const attentionOf = ({ weights, config, cache }: Layer): AttentionLayer => ({
  weights: weights.attention,
  config,
  cache,
})
