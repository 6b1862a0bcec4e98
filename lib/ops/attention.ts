import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'
import { type BatchLayout, expectBatch, expectPages, type KvPages, useBatch } from './kv_append.ts'

/**
 * Causal attention over the paged cache, scores without the 1/sqrt(head_dim) factor (spec 3.3). A query at absolute
 * position p sees keys 0..p of its own sequence; head h reads kv head `floor(h * numKvHeads / numHeads)`. Record
 * `kvAppend()` of the same rows first. A row has the same bits alone, in any batch and in any chunk of its prompt.
 * @param q f32 [num_tokens, num_heads*head_dim], rotated
 * @returns f32 [num_tokens, num_heads*head_dim]
 */
export function attention(
  p: Program,
  q: TensorLike,
  cache: KvPages,
  batch: BatchLayout,
  heads: { numHeads: number; numKvHeads: number; headDim: number },
): Tensor {
  const { numHeads, numKvHeads, headDim } = heads
  const pages = expectPages('attention', cache)
  expectThat(
    pages.numKvHeads === numKvHeads && pages.headDim === headDim,
    'attention',
    `the pages hold ${pages.numKvHeads} kv heads of ${pages.headDim}, expected ${numKvHeads} of ${headDim}`,
  )
  expectThat(
    numKvHeads > 0 && numHeads % numKvHeads === 0,
    'attention',
    `num_heads is ${numHeads}, expected a multiple of num_kv_heads = ${numKvHeads}`,
  )
  const { numSeqs, maxBlocks } = expectBatch('attention', batch)
  const [numTokens = 0] = expectTensor('attention', 'q', q, 'f32', ['num_tokens', numHeads * headDim])
  const out = p.alloc('f32', [numTokens, numHeads * headDim])
  p.record(
    'attention',
    { q: p.use(q), ...cache, ...useBatch(p, batch), out },
    { numTokens, numSeqs, numHeads, numKvHeads, headDim, numPages: pages.numPages, maxBlocks },
  )
  return out
}
