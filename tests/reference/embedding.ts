/** Rows of a table, one by one. */
export function embedding(
  table: ArrayLike<number>,
  ids: ArrayLike<number>,
  hiddenSize: number,
): Float64Array {
  const out = new Float64Array(ids.length * hiddenSize)
  for (let t = 0; t < ids.length; t++) {
    for (let i = 0; i < hiddenSize; i++) out[t * hiddenSize + i] = table[ids[t]! * hiddenSize + i]!
  }
  return out
}
