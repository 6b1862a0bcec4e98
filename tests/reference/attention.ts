export interface Heads {
  numHeads: number
  numKvHeads: number
  headDim: number
}

/** Spec 3.3 in f64 over plain keys and values [T, num_kv_heads, head_dim]; row s of q stands at firstPosition + s. */
export function attention(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  { numHeads, numKvHeads, headDim }: Heads,
  firstPosition: number,
): Float64Array {
  const out = new Float64Array(q.length)
  const rows = q.length / (numHeads * headDim)
  for (let s = 0; s < rows; s++) {
    for (let head = 0; head < numHeads; head++) {
      const kvHead = Math.floor(head / (numHeads / numKvHeads))
      const at = (s * numHeads + head) * headDim
      const from = (position: number) => (position * numKvHeads + kvHead) * headDim
      const scores: number[] = []
      for (let position = 0; position <= firstPosition + s; position++) {
        let score = 0
        for (let d = 0; d < headDim; d++) score += q[at + d]! * k[from(position) + d]!
        scores.push(score)
      }
      const highest = Math.max(...scores)
      const weights = scores.map((score) => Math.exp(score - highest))
      const total = weights.reduce((a, b) => a + b, 0)
      weights.forEach((weight, position) => {
        for (let d = 0; d < headDim; d++) out[at + d]! += (weight / total) * v[from(position) + d]!
      })
    }
  }
  return out
}
