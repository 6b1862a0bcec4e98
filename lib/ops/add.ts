import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * The residual stream (spec 3): `out = a + b`.
 * @param a f32 [num_tokens, hidden_size]
 * @param b f32 [num_tokens, hidden_size]
 * @returns f32 [num_tokens, hidden_size]
 */
export function add(p: Program, a: TensorLike, b: TensorLike): Tensor {
  const [numTokens = 0, hiddenSize = 0] = expectTensor('add', 'a', a, 'f32', ['num_tokens', 'hidden_size'])
  expectTensor('add', 'b', b, 'f32', [numTokens, hiddenSize])
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record('add', { a: p.use(a), b: p.use(b), out }, { numTokens, hiddenSize })
  return out
}
