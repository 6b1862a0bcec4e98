import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/**
 * Softmax over all experts in f32, then the top_k; ties go to the lowest index, weights are not renormalised (spec 4.1,
 * paper Eq. 1-2).
 * @param routerLogits f32 [num_tokens, num_experts]
 * @returns expertIds i32 and expertWeights f32, both [num_tokens, top_k], best first
 */
export function moeGating(
  p: Program,
  routerLogits: TensorLike,
  topK = 2,
): { expertIds: Tensor; expertWeights: Tensor } {
  const [numTokens = 0, numExperts = 0] = expectTensor('moe_gating', 'router_logits', routerLogits, 'f32', [
    'num_tokens',
    'num_experts',
  ])
  expectThat(
    topK >= 1 && topK <= numExperts,
    'moe_gating',
    `top_k is ${topK}, expected 1 to ${numExperts} experts`,
  )
  const expertIds = p.alloc('i32', [numTokens, topK])
  const expertWeights = p.alloc('f32', [numTokens, topK])
  p.record(
    'moe_gating',
    { routerLogits: p.use(routerLogits), expertIds, expertWeights },
    { numTokens, numExperts, topK },
  )
  return { expertIds, expertWeights }
}
