/** Row r times the weights of the expert that owns it, then a * silu(b) * up, all in f64; rows of nobody are zero. */
export function groupedGemmSwiglu(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  expertOffsets: ArrayLike<number>,
  inFeatures: number,
): Float64Array {
  const numExperts = expertOffsets.length - 1
  const width = weight.length / numExperts / inFeatures / 3
  const out = new Float64Array((x.length / inFeatures) * width)
  for (let e = 0; e < numExperts; e++) {
    for (let r = expertOffsets[e]!; r < expertOffsets[e + 1]!; r++) {
      const dot = (row: number): number => {
        let sum = 0
        for (let k = 0; k < inFeatures; k++)
          sum += x[r * inFeatures + k]! * weight[(e * 3 * width + row) * inFeatures + k]!
        return sum
      }
      for (let f = 0; f < width; f++) {
        const b = dot(width + f)
        out[r * width + f] = ((dot(f) * b) / (1 + Math.exp(-b))) * dot(2 * width + f)
      }
    }
  }
  return out
}
