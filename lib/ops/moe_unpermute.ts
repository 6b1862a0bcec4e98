import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * `out[t] = sum_k expert_weights[t, k] * permuted[row_id_map[t, k]]`, in the order of k; dropped copies add nothing
 * (spec 4.3).
 * @param permuted f32 [num_permuted, hidden_size]: expert outputs
 * @param route rowIdMap i32 [num_tokens, top_k], from moeRouting()
 * @param expertWeights f32 [num_tokens, top_k], from moeGating()
 * @returns f32 [num_tokens, hidden_size]
 */
export function moeUnpermute(
  p: Program,
  permuted: TensorLike,
  route: { rowIdMap: TensorLike },
  expertWeights: TensorLike,
): Tensor {
  const [numPermuted = 0, hiddenSize = 0] = expectTensor('moe_unpermute', 'permuted', permuted, 'f32', [
    'num_permuted',
    'hidden_size',
  ])
  const [numTokens = 0, topK = 0] = expectTensor('moe_unpermute', 'expert_weights', expertWeights, 'f32', [
    'num_tokens',
    'top_k',
  ])
  expectTensor('moe_unpermute', 'row_id_map', route.rowIdMap, 'i32', [numTokens, topK])
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record(
    'moe_unpermute',
    { permuted: p.use(permuted), rowIdMap: p.use(route.rowIdMap), expertWeights: p.use(expertWeights), out },
    { numPermuted, numTokens, topK, hiddenSize },
  )
  return out
}
