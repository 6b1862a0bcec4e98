// The whole network as one recording: embedding, decoder layers, final norm; then one of two heads (spec section 3).
import { type CapacityGroups } from '../layers/moe.ts'
import { decoderLayer, type LayerBatch } from '../layers/decoder_layer.ts'
import { embedding } from '../ops/embedding.ts'
import { linear } from '../ops/linear.ts'
import { linearArgmax } from '../ops/linear_argmax.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import type { Program } from '../program.ts'
import { type Tensor, tensor } from '../tensor.ts'
import type { OpenMoeConfig } from './config.ts'
import type { KvCache } from './kv_cache.ts'
import type { ModelWeights } from './weights.ts'

/** Sizes that decide a recording; everything else is data written before a run. */
export interface ForwardShape {
  numTokens: number
  numSeqs: number
  numGroups: number
  /** Entries per sequence in the block table. */
  maxBlocks: number
  /** Rows whose logits, or next tokens, are wanted. */
  numLogitRows: number
}

/** What a pass finds on the device besides the weights. */
export interface DeviceState {
  cache: KvCache
  /** i32: what the run before has sampled; a token id below 0 stands for `previous[-1 - id]`. */
  previous?: Tensor
}

/**
 * Records one forward pass over packed sequences (never padded). Inputs, all i32, in the order a caller fills them:
 * token_ids and positions [num_tokens], seq_offsets [num_seqs + 1], seq_positions [num_seqs], block_table
 * [num_seqs, max_blocks], group_offsets [num_groups + 1], capacity [num_groups], logit_rows [num_logit_rows].
 * @returns f32 [num_logit_rows, hidden_size], normed: what a head takes; or null without logit rows
 */
export function openMoe(
  p: Program,
  config: OpenMoeConfig,
  weights: ModelWeights,
  { cache, previous }: DeviceState,
  shape: ForwardShape,
): Tensor | null {
  const { numTokens, numSeqs, numGroups, maxBlocks, numLogitRows } = shape
  const ids = p.input('token_ids', 'i32', [numTokens])
  const groups: CapacityGroups = {
    groupOffsets: p.input('group_offsets', 'i32', [numGroups + 1]),
    capacity: p.input('capacity', 'i32', [numGroups]),
  }
  const batch: LayerBatch = {
    rows: { positions: p.input('positions', 'i32', [numTokens]), ropeTable: weights.ropeTable },
    layout: {
      blockTable: p.input('block_table', 'i32', [numSeqs, maxBlocks]),
      seqOffsets: p.input('seq_offsets', 'i32', [numSeqs + 1]),
      seqPositions: p.input('seq_positions', 'i32', [numSeqs]),
    },
    groups,
    allRows: p.use(tensor(Int32Array.of(0, numTokens), [2])),
  }
  let x = p.scope('embed_tokens', () => embedding(p, weights.embedTokens, ids, previous))
  weights.layers.forEach((layer, i) => {
    x = p.scope(`layers.${i}`, () => decoderLayer(p, x, layer, config, i, cache.layer(i), batch))
  })
  if (numLogitRows === 0) return null
  // Only rows whose logits are wanted pass the head: it is more than half of the small model's weights.
  const rows = embedding(p, x, p.input('logit_rows', 'i32', [numLogitRows]))
  return p.scope('norm', () => rmsNorm(p, rows, weights.norm, config.rmsNormEps))
}

/** The head: f32 [num_logit_rows, vocab_size]. */
export function logits(p: Program, normed: Tensor, { lmHead }: ModelWeights): Tensor {
  return p.scope('lm_head', () => linear(p, normed, lmHead))
}

/** The head where only the likeliest ids are wanted: i32 [num_logit_rows]. The logits are never written. */
export function likeliest(
  p: Program,
  normed: Tensor,
  { lmHead }: ModelWeights,
  options: { vocabLimit: number; token?: Tensor },
): Tensor {
  return p.scope('lm_head', () => linearArgmax(p, normed, lmHead, options))
}
