import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectTensor, expectThat } from './checks.ts'

/**
 * Queries, keys and values of the same rows in one op: `linear` with each of three matrices, to the bit (spec 3.2).
 * @param x f32 [num_tokens, in_features]
 * @param weights packed q [q_features, in_features], k and v [kv_features, in_features], of one dtype
 * @returns f32 q [num_tokens, q_features], k and v [num_tokens, kv_features]
 */
export function linearQkv(
  p: Program,
  x: TensorLike,
  weights: { q: Matrix; k: Matrix; v: Matrix },
): { q: Tensor; k: Tensor; v: Tensor } {
  const op = 'linear_qkv'
  const [numTokens = 0, inFeatures = 0] = expectTensor(op, 'x', x, 'f32', ['num_tokens', 'in_features'])
  for (const name of ['q', 'k', 'v'] as const) expectMatrix(op, name, weights[name], inFeatures)
  const { q: qWeight, k: kWeight, v: vWeight } = weights
  const { outFeatures: qFeatures } = qWeight
  const { outFeatures: kvFeatures } = kWeight
  expectThat(vWeight.outFeatures === kvFeatures, op, `k has ${kvFeatures} rows, v ${vWeight.outFeatures}`)
  const dtypes = new Set([qWeight.dtype, kWeight.dtype, vWeight.dtype])
  expectThat(dtypes.size === 1, op, `the weights are ${[...dtypes].join(' and ')}, expected one dtype`)
  const q = p.alloc('f32', [numTokens, qFeatures])
  const k = p.alloc('f32', [numTokens, kvFeatures])
  const v = p.alloc('f32', [numTokens, kvFeatures])
  p.record(
    op,
    { x: p.use(x), qWeight, kWeight, vWeight, q, k, v },
    { numTokens, qFeatures, kvFeatures, inFeatures },
  )
  return { q, k, v }
}
