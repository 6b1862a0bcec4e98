/** Spec 3.1 in f64. */
export function rmsNorm(x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array {
  const width = weight.length
  const out = new Float64Array(x.length)
  for (let row = 0; row < x.length; row += width) {
    let squares = 0
    for (let i = 0; i < width; i++) squares += x[row + i]! ** 2
    for (let i = 0; i < width; i++) {
      out[row + i] = (weight[i]! * x[row + i]!) / Math.sqrt(squares / width + eps)
    }
  }
  return out
}
