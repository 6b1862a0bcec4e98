import { linear } from './linear.ts'

/** x [rows, inFeatures] times the transpose of each of three matrices, in f64. */
export const linearQkv = (
  x: ArrayLike<number>,
  weights: { q: ArrayLike<number>; k: ArrayLike<number>; v: ArrayLike<number> },
  inFeatures: number,
): { q: Float64Array; k: Float64Array; v: Float64Array } => ({
  q: linear(x, weights.q, inFeatures),
  k: linear(x, weights.k, inFeatures),
  v: linear(x, weights.v, inFeatures),
})
