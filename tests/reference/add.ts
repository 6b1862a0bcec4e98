/** The sum, rounded once. */
export function add(a: ArrayLike<number>, b: ArrayLike<number>): Float32Array {
  return Float32Array.from({ length: a.length }, (_, i) => a[i]! + b[i]!)
}
