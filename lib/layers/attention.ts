import { attention } from '../ops/attention.ts'
import { type BatchLayout, kvAppend, type KvPages } from '../ops/kv_append.ts'
import { linear } from '../ops/linear.ts'
import { linearQkv } from '../ops/linear_qkv.ts'
import { rope } from '../ops/rope.ts'
import type { Program } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'

export interface AttentionWeights {
  /** [H * d, D] */
  q: Matrix
  /** [Hkv * d, D] */
  k: Matrix
  v: Matrix
  /** [D, H * d] */
  o: Matrix
}

export interface AttentionConfig {
  numAttentionHeads: number
  numKeyValueHeads: number
  headDim: number
}

/** Where the rows of a run stand. */
export interface RowPositions {
  /** i32 [num_tokens], absolute */
  positions: Tensor
  /** f32 [max_positions, head_dim], cos | sin */
  ropeTable: Tensor
}

/** One layer's attention, whatever the rows. */
export interface AttentionLayer {
  weights: AttentionWeights
  config: AttentionConfig
  cache: KvPages
}

/** Rows of a run, and the sequences they belong to. */
export interface AttentionRows {
  rows: RowPositions
  layout: BatchLayout
}

/**
 * Causal self-attention without score scaling (spec 3.2-3.4), and its residual. Caches keys and values of the rows.
 * @param input.x f32 [num_tokens, hidden_size], normed
 * @param input.residual the same before the norm
 */
export function selfAttention(
  p: Program,
  input: { x: Tensor; residual: Tensor },
  layer: AttentionLayer,
  batch: AttentionRows,
): Tensor {
  const { q, k, v } = linearQkv(p, input.x, layer.weights)
  append(p, { k, v }, layer, batch)
  return attend(p, { q, residual: input.residual }, layer, batch)
}

/**
 * Caches keys and values of new rows.
 * @param x f32 [num_tokens, hidden_size], normed
 */
export function appendKeys(p: Program, x: Tensor, layer: AttentionLayer, batch: AttentionRows): void {
  const { weights } = layer
  append(p, { k: linear(p, x, weights.k), v: linear(p, x, weights.v) }, layer, batch)
}

/** selfAttention() of rows whose keys are cached already; those of later positions may be. */
export function cachedAttention(
  p: Program,
  input: { x: Tensor; residual: Tensor },
  layer: AttentionLayer,
  batch: AttentionRows,
): Tensor {
  return attend(p, { q: linear(p, input.x, layer.weights.q), residual: input.residual }, layer, batch)
}

/** Keys are cached rotated: positions are absolute. */
function append(
  p: Program,
  { k, v }: { k: Tensor; v: Tensor },
  { config, cache }: AttentionLayer,
  { rows, layout }: AttentionRows,
): void {
  const rotated = rope(p, k, rows.positions, rows.ropeTable, { numHeads: config.numKeyValueHeads })
  kvAppend(p, rotated, v, cache, layout)
}

function attend(
  p: Program,
  { q, residual }: { q: Tensor; residual: Tensor },
  { weights, config, cache }: AttentionLayer,
  { rows, layout }: AttentionRows,
): Tensor {
  const { numAttentionHeads: numHeads, numKeyValueHeads: numKvHeads, headDim } = config
  const rotated = rope(p, q, rows.positions, rows.ropeTable, { numHeads })
  const attended = attention(p, rotated, cache, layout, { numHeads, numKvHeads, headDim })
  return linear(p, attended, weights.o, residual)
}
