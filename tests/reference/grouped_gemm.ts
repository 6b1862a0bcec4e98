/** Row r times the weights of the expert that owns it, in f64; rows of nobody are zero. weight [experts, out, in]. */
export function groupedGemm(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  expertOffsets: ArrayLike<number>,
  inFeatures: number,
): Float64Array {
  const numExperts = expertOffsets.length - 1
  const outFeatures = weight.length / numExperts / inFeatures
  const rows = x.length / inFeatures
  const out = new Float64Array(rows * outFeatures)
  for (let r = 0; r < rows; r++) {
    for (let e = 0; e < numExperts; e++) {
      if (r < expertOffsets[e]! || r >= expertOffsets[e + 1]!) continue
      for (let n = 0; n < outFeatures; n++) {
        for (let k = 0; k < inFeatures; k++) {
          out[r * outFeatures + n]! +=
            x[r * inFeatures + k]! * weight[(e * outFeatures + n) * inFeatures + k]!
        }
      }
    }
  }
  return out
}
