import { attention as attentionOp } from '../ops/attention.ts'
import { type BatchLayout, kvAppend, type KvPages } from '../ops/kv_append.ts'
import { linear } from '../ops/linear.ts'
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
 * Caches keys and values of new rows. Keys are cached rotated: positions are absolute.
 * @param x f32 [num_tokens, hidden_size], normed
 */
export function appendKeys(
  p: Program,
  x: Tensor,
  { weights, config, cache }: AttentionLayer,
  { rows, layout }: AttentionRows,
): void {
  const numHeads = config.numKeyValueHeads
  const k = rope(p, linear(p, x, weights.k), rows.positions, rows.ropeTable, { numHeads })
  kvAppend(p, k, linear(p, x, weights.v), cache, layout)
}

/**
 * Causal self-attention without score scaling (spec 3.2-3.4), and its residual. The keys of these rows must be cached;
 * those of later positions may be.
 * @param input.x f32 [num_tokens, hidden_size], normed
 * @param input.residual the same before the norm
 */
export function attention(
  p: Program,
  input: { x: Tensor; residual: Tensor },
  { weights, config, cache }: AttentionLayer,
  { rows, layout }: AttentionRows,
): Tensor {
  const { numAttentionHeads: numHeads, numKeyValueHeads: numKvHeads, headDim } = config
  const q = rope(p, linear(p, input.x, weights.q), rows.positions, rows.ropeTable, { numHeads })
  const attended = attentionOp(p, q, cache, layout, { numHeads, numKvHeads, headDim })
  return linear(p, attended, weights.o, input.residual)
}
