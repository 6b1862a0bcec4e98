import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/**
 * Router and gating in one: `router_logits = x weight^T`, softmax over all experts, then the top_k; all in f32, ties go to
 * the lowest index, weights are not renormalised (spec 3.6 and 4.1, paper Eq. 1-2).
 * @param x f32 [num_tokens, hidden_size]
 * @param weight f32 [num_experts, hidden_size]
 * @returns routerLogits f32 [num_tokens, num_experts]; expertIds i32 and expertWeights f32, both [num_tokens, top_k],
 *   best first
 */
export function moeRouter(
  p: Program,
  x: TensorLike,
  weight: TensorLike,
  topK = 2,
): { routerLogits: Tensor; expertIds: Tensor; expertWeights: Tensor } {
  const op = 'moe_router'
  const [numTokens = 0, hiddenSize = 0] = expectTensor(op, 'x', x, 'f32', ['num_tokens', 'hidden_size'])
  const [numExperts = 0] = expectTensor(op, 'weight', weight, 'f32', ['num_experts', hiddenSize])
  expectThat(topK >= 1 && topK <= numExperts, op, `top_k is ${topK}, expected 1 to ${numExperts} experts`)
  const routerLogits = p.alloc('f32', [numTokens, numExperts])
  const expertIds = p.alloc('i32', [numTokens, topK])
  const expertWeights = p.alloc('f32', [numTokens, topK])
  p.record(
    op,
    { x: p.use(x), weight: p.use(weight), routerLogits, expertIds, expertWeights },
    { numTokens, numExperts, topK, hiddenSize },
  )
  return { routerLogits, expertIds, expertWeights }
}
