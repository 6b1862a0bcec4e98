import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectPanel, expectTensor } from './checks.ts'

/**
 * `out[t] = sum_k expert_weights[t, k] * permuted[row_id_map[t, k]]`, in the order of k; dropped copies add nothing
 * (spec 4.3). With a residual, `out[t] = residual[t] + ` that sum.
 * @param permuted f32 [num_permuted, hidden_size]: expert outputs, plain or from groupedGemm()
 * @param route rowIdMap i32 [num_tokens, top_k] and expertOffsets i32 [num_experts + 1], from moeRouting()
 * @param expertWeights f32 [num_tokens, top_k], from moeRouter() or moeGating()
 * @param residual f32 [num_tokens, hidden_size]
 * @returns f32 [num_tokens, hidden_size]
 */
export function moeUnpermute(
  p: Program,
  permuted: TensorLike,
  route: { rowIdMap: TensorLike; expertOffsets: TensorLike },
  expertWeights: TensorLike,
  residual?: TensorLike,
): Tensor {
  const op = 'moe_unpermute'
  const [numPermuted = 0, hiddenSize = 0] = expectPanel(op, 'permuted', permuted, [
    'num_permuted',
    'hidden_size',
  ])
  const [numTokens = 0, topK = 0] = expectTensor(op, 'expert_weights', expertWeights, 'f32', [
    'num_tokens',
    'top_k',
  ])
  expectTensor(op, 'row_id_map', route.rowIdMap, 'i32', [numTokens, topK])
  const [ends = 1] = expectTensor(op, 'expert_offsets', route.expertOffsets, 'i32', ['num_experts+1'])
  if (residual) expectTensor(op, 'x', residual, 'f32', [numTokens, hiddenSize])
  const expertOffsets = p.use(route.expertOffsets)
  const panel = p.asPanel(permuted, expertOffsets)
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record(
    op,
    {
      permuted: panel,
      rowIdMap: p.use(route.rowIdMap),
      expertWeights: p.use(expertWeights),
      expertOffsets,
      x: residual && p.use(residual),
      out,
    },
    { numPermuted, numTokens, topK, numExperts: ends - 1, hiddenSize },
  )
  return out
}
