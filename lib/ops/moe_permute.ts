import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * Copies every token to the rows of its experts: `permuted[row_id_map[t, k]] = x[t]`. Rows nobody maps to are zero.
 * @param x f32 [num_tokens, hidden_size]
 * @param route rowIdMap i32 [num_tokens, top_k], from moeRouting()
 * @returns f32 [num_tokens * top_k, hidden_size], grouped by expert
 */
export function moePermute(p: Program, x: TensorLike, route: { rowIdMap: TensorLike }): Tensor {
  const [numTokens = 0, hiddenSize = 0] = expectTensor('moe_permute', 'x', x, 'f32', [
    'num_tokens',
    'hidden_size',
  ])
  const [, topK = 0] = expectTensor('moe_permute', 'row_id_map', route.rowIdMap, 'i32', [numTokens, 'top_k'])
  const permuted = p.alloc('f32', [numTokens * topK, hiddenSize])
  p.record(
    'moe_permute',
    { x: p.use(x), rowIdMap: p.use(route.rowIdMap), permuted },
    { numTokens, topK, hiddenSize },
  )
  return permuted
}
