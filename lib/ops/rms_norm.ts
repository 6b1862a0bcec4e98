import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * RMSNorm (spec 3.1): `weight * x / sqrt(mean(x²) + eps)` for each row.
 * @param x f32 [num_tokens, hidden_size]
 * @param weight f32 [hidden_size]
 * @returns f32 [num_tokens, hidden_size]
 */
export function rmsNorm(p: Program, x: TensorLike, weight: TensorLike, eps = 1e-6): Tensor {
  const [numTokens = 0, hiddenSize = 0] = expectTensor('rms_norm', 'x', x, 'f32', [
    'num_tokens',
    'hidden_size',
  ])
  expectTensor('rms_norm', 'weight', weight, 'f32', [hiddenSize])
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record('rms_norm', { x: p.use(x), weight: p.use(weight), out }, { numTokens, hiddenSize, eps })
  return out
}
