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

/**
 * Causal self-attention without score scaling (spec 3.2-3.4), and its residual. Keys are cached rotated: positions are
 * absolute.
 * @param input.x f32 [num_tokens, hidden_size], normed
 * @param input.residual the same before the norm
 */
export function attention(
  p: Program,
  input: { x: Tensor; residual: Tensor },
  w: AttentionWeights,
  config: AttentionConfig,
  rows: RowPositions,
  cache: KvPages,
  batch: BatchLayout,
): Tensor {
  const { numAttentionHeads: numHeads, numKeyValueHeads: numKvHeads, headDim } = config
  const { x, residual } = input
  const q = rope(p, linear(p, x, w.q), rows.positions, rows.ropeTable, { numHeads })
  const k = rope(p, linear(p, x, w.k), rows.positions, rows.ropeTable, { numHeads: numKvHeads })
  const v = linear(p, x, w.v)
  kvAppend(p, k, v, cache, batch)
  const attended = attentionOp(p, q, cache, batch, { numHeads, numKvHeads, headDim })
  return linear(p, attended, w.o, residual)
}
