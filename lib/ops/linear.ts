import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectTensor } from './checks.ts'

/**
 * `x weight^T`, accumulated in f32 in the order of in_features (spec notation: Linear(x, W)).
 * @param x f32 [num_tokens, in_features]
 * @param weight packed [out_features, in_features], any dtype of a matrix
 * @param residual f32 [num_tokens, out_features], added to the product
 * @returns f32 [num_tokens, out_features]
 */
export function linear(p: Program, x: TensorLike, weight: Matrix, residual?: TensorLike): Tensor {
  const [numTokens = 0, inFeatures = 0] = expectTensor('linear', 'x', x, 'f32', ['num_tokens', 'in_features'])
  expectMatrix('linear', 'weight', weight, inFeatures)
  const { outFeatures } = weight
  const out = p.alloc('f32', [numTokens, outFeatures])
  if (residual) expectTensor('linear', 'residual', residual, 'f32', [numTokens, outFeatures])
  p.record(
    'linear',
    { x: p.use(x), weight, residual: residual && p.use(residual), out },
    { numTokens, outFeatures, inFeatures },
  )
  return out
}
