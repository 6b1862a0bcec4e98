export const silu = (b: number): number => b / (1 + Math.exp(-b))

/** Spec 3.5 in f64; a row is a | b | up. */
export function swiglu(gateUp: ArrayLike<number>, width: number): Float64Array {
  const out = new Float64Array(gateUp.length / 3)
  for (let i = 0; i < out.length; i++) {
    const at = Math.floor(i / width) * 3 * width + (i % width)
    out[i] = gateUp[at]! * silu(gateUp[at + width]!) * gateUp[at + 2 * width]!
  }
  return out
}
