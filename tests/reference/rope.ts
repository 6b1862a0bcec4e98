/** Spec 3.4: the angle in f32, as models were trained with it; everything else in f64. */
export function rope(
  x: ArrayLike<number>,
  positions: ArrayLike<number>,
  { numHeads, headDim, theta }: { numHeads: number; headDim: number; theta: number },
): Float64Array {
  const out = new Float64Array(x.length)
  const half = headDim / 2
  for (let t = 0; t < positions.length; t++) {
    for (let head = 0; head < numHeads; head++) {
      for (let j = 0; j < half; j++) {
        const power = Math.fround(theta ** Math.fround((2 * j) / headDim))
        const angle = Math.fround(positions[t]! * Math.fround(1 / power))
        const first = (t * numHeads + head) * headDim + j
        const second = first + half
        out[first] = x[first]! * Math.cos(angle) - x[second]! * Math.sin(angle)
        out[second] = x[second]! * Math.cos(angle) + x[first]! * Math.sin(angle)
      }
    }
  }
  return out
}
