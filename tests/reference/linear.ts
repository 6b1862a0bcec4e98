/** x [rows, inFeatures] times the transpose of weight [outFeatures, inFeatures], in f64. */
export function linear(x: ArrayLike<number>, weight: ArrayLike<number>, inFeatures: number): Float64Array {
  const rows = x.length / inFeatures
  const outFeatures = weight.length / inFeatures
  const out = new Float64Array(rows * outFeatures)
  for (let r = 0; r < rows; r++) {
    for (let n = 0; n < outFeatures; n++) {
      let sum = 0
      for (let k = 0; k < inFeatures; k++) sum += x[r * inFeatures + k]! * weight[n * inFeatures + k]!
      out[r * outFeatures + n] = sum
    }
  }
  return out
}
