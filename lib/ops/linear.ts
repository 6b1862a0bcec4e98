import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectTensor } from './checks.ts'

/**
 * `x weight^T`, accumulated in f32 in the order of in_features (spec notation: Linear(x, W)).
 * @param x f32 [num_tokens, in_features]
 * @param weight packed [out_features, in_features], f32 or bf16
 * @returns f32 [num_tokens, out_features]
 */
export function linear(p: Program, x: TensorLike, weight: Matrix): Tensor {
  const [numTokens = 0, inFeatures = 0] = expectTensor('linear', 'x', x, 'f32', ['num_tokens', 'in_features'])
  expectMatrix('linear', 'weight', weight, inFeatures)
  const { outFeatures } = weight
  const out = p.alloc('f32', [numTokens, outFeatures])
  p.record('linear', { x: p.use(x), weight, out }, { numTokens, outFeatures, inFeatures })
  return out
}
