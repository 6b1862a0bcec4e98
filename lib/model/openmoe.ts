// The whole network as one recording: embedding, decoder layers, final norm; then one of two heads (spec section 3).
import { type CapacityGroups } from '../layers/moe.ts'
import { decoderLayer, lastLayer, type LayerBatch, type WantedRows } from '../layers/decoder_layer.ts'
import { embedding } from '../ops/embedding.ts'
import { linear } from '../ops/linear.ts'
import { linearArgmax } from '../ops/linear_argmax.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import type { Program } from '../program.ts'
import { type Tensor, tensor } from '../tensor.ts'
import { isMoeLayer, type OpenMoeConfig } from './config.ts'
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
  /** Whether tokens of a group compete for the slots of an expert. */
  hasCapacity: boolean
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
 * [num_seqs, max_blocks], group_offsets [num_groups + 1], capacity [num_groups], logit_rows [num_logit_rows]; and where
 * the last layer attends for those rows alone, logit_positions [num_logit_rows], logit_blocks [num_logit_rows, max_blocks].
 * @returns f32 [num_logit_rows, hidden_size], normed: what a head takes; or null without logit rows
 */
export function openMoe(
  p: Program,
  config: OpenMoeConfig,
  weights: ModelWeights,
  { cache, previous }: DeviceState,
  shape: ForwardShape,
): Tensor | null {
  const { numTokens, numSeqs, numGroups, maxBlocks } = shape
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
  const layers = weights.layers.map((of, index) => ({
    index,
    weights: of,
    config,
    cache: cache.layer(index),
  }))
  const last = layers.pop()!
  for (const layer of layers) x = p.scope(`layers.${layer.index}`, () => decoderLayer(p, x, layer, batch))
  const wanted = wantedRows(p, batch, shape, wantedFrom(p, config, last.index, shape))
  const rows = p.scope(`layers.${last.index}`, () => lastLayer(p, x, last, batch, wanted))
  return rows && p.scope('norm', () => rmsNorm(p, rows, weights.norm, config.rmsNormEps))
}

/**
 * From where on only the rows whose logits are wanted are computed: the attention of the last layer, unless its other
 * rows are observed, or compete for experts with those that are wanted (docs/adr/0034).
 */
function wantedFrom(
  p: Program,
  config: OpenMoeConfig,
  last: number,
  { numTokens, numLogitRows, hasCapacity }: ForwardShape,
): WantedRows['from'] {
  const isMoe = isMoeLayer(config, last)
  const wants = (...taps: string[]): boolean => taps.some((tap) => p.wants(tap))
  const ofMoe = (...taps: string[]): boolean => isMoe && wants(...taps.map((tap) => `moe.${last}.${tap}`))
  if (numLogitRows >= numTokens || (isMoe && hasCapacity)) return 'head'
  if (wants(`hidden.${last}`) || ofMoe('rank', 'kept', 'output')) return 'head'
  if (wants(`after_attention.${last}`) || ofMoe('router_logits', 'topk_index', 'topk_prob')) return 'ffn'
  return 'attention'
}

/** The wanted rows as a run of their own: each a sequence of one row, so that it does not matter which they are. */
function wantedRows(
  p: Program,
  batch: LayerBatch,
  { numLogitRows, maxBlocks }: ForwardShape,
  from: WantedRows['from'],
): WantedRows {
  const rows = numLogitRows > 0 ? p.input('logit_rows', 'i32', [numLogitRows]) : null
  if (!rows || from === 'head') return { from, rows, batch }
  const allRows = p.use(tensor(Int32Array.of(0, numLogitRows), [2]))
  const groups = { groupOffsets: allRows, capacity: p.use(tensor(Int32Array.of(-1), [1])) }
  if (from === 'ffn') return { from, rows, batch: { ...batch, groups, allRows } }
  const positions = p.input('logit_positions', 'i32', [numLogitRows])
  const seqOffsets = Int32Array.from({ length: numLogitRows + 1 }, (_, row) => row)
  const layout = {
    blockTable: p.input('logit_blocks', 'i32', [numLogitRows, maxBlocks]),
    seqOffsets: p.use(tensor(seqOffsets, [numLogitRows + 1])),
    seqPositions: positions,
  }
  return { from, rows, batch: { rows: { ...batch.rows, positions }, layout, groups, allRows } }
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
