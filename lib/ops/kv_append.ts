import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/** Positions in a page (native/ops/kv_append.h). */
export const PAGE_TOKENS = 32

/** The cache of one layer: persistent tensors of the device, both f32 or both bf16. */
export interface KvPages {
  /** [num_pages, num_kv_heads, head_dim, 32]: rotated keys, tokens last; in bf16 [.., head_dim/2, 32, 2] */
  kPages: Tensor
  /** [num_pages, num_kv_heads, 32, head_dim] */
  vPages: Tensor
}

/**
 * Which rows of a run belong to which sequence, and where its pages are. All values are checked when the program runs.
 * No two sequences may share a page that either of them writes to.
 */
export interface BatchLayout {
  /** i32 [num_seqs, max_blocks]: page of each 32 positions; entries beyond the last position may be anything */
  blockTable: TensorLike
  /** i32 [num_seqs + 1]: sequence s owns rows [offsets[s], offsets[s + 1]) */
  seqOffsets: TensorLike
  /** i32 [num_seqs]: absolute position of its first row */
  seqPositions: TensorLike
}

/**
 * Writes the keys (rotated) and values of this run's rows into the paged cache (spec 5), in bf16 where the pages are.
 * @param k f32 [num_tokens, num_kv_heads*head_dim]
 * @param v f32 [num_tokens, num_kv_heads*head_dim]
 */
export function kvAppend(p: Program, k: TensorLike, v: TensorLike, cache: KvPages, batch: BatchLayout): void {
  const { numPages, numKvHeads, headDim } = expectPages('kv_append', cache)
  const { numSeqs, maxBlocks } = expectBatch('kv_append', batch)
  const [numTokens = 0] = expectTensor('kv_append', 'k', k, 'f32', ['num_tokens', numKvHeads * headDim])
  expectTensor('kv_append', 'v', v, 'f32', [numTokens, numKvHeads * headDim])
  p.record(
    'kv_append',
    { k: p.use(k), v: p.use(v), ...cache, ...useBatch(p, batch) },
    { numTokens, numSeqs, numKvHeads, headDim, numPages, maxBlocks },
  )
}

export function expectPages(op: string, { kPages, vPages }: KvPages) {
  const [numPages = 0, numKvHeads = 0, headDim = 0] = expectTensor(
    op,
    'k_pages',
    kPages,
    ['f32', 'bf16'],
    ['num_pages', 'num_kv_heads', 'head_dim', PAGE_TOKENS],
  )
  expectTensor(op, 'v_pages', vPages, kPages.dtype, [numPages, numKvHeads, PAGE_TOKENS, headDim])
  expectThat(
    Boolean(kPages.buffer && vPages.buffer),
    op,
    'k_pages and v_pages must outlive the run. Make them with device.empty().',
  )
  return { numPages, numKvHeads, headDim }
}

export function expectBatch(op: string, { blockTable, seqOffsets, seqPositions }: BatchLayout) {
  const [numSeqs = 0, maxBlocks = 0] = expectTensor(op, 'block_table', blockTable, 'i32', [
    'num_seqs',
    'max_blocks',
  ])
  expectTensor(op, 'seq_offsets', seqOffsets, 'i32', [numSeqs + 1])
  expectTensor(op, 'seq_positions', seqPositions, 'i32', [numSeqs])
  return { numSeqs, maxBlocks }
}

export const useBatch = (p: Program, { blockTable, seqOffsets, seqPositions }: BatchLayout) => ({
  blockTable: p.use(blockTable),
  seqOffsets: p.use(seqOffsets),
  seqPositions: p.use(seqPositions),
})
