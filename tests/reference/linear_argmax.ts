/** The id of each row's largest product, and by how much it leads: below rounding, f32 may take the other one. */
export function linearArgmax(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  inFeatures: number,
  vocabSize: number,
): { id: number; margin: number }[] {
  const result: { id: number; margin: number }[] = []
  for (let row = 0; row < x.length / inFeatures; row++) {
    const logits: number[] = []
    for (let id = 0; id < vocabSize; id++) {
      let sum = 0
      for (let k = 0; k < inFeatures; k++) sum += x[row * inFeatures + k]! * weight[id * inFeatures + k]!
      logits.push(sum)
    }
    const usable = !logits.some((logit) => Number.isNaN(logit) || logit === Infinity)
    const best = logits.reduce((a, b) => Math.max(a, b), -Infinity)
    const id = usable && best > -Infinity ? logits.indexOf(best) : -1
    const next = logits.reduce((a, b, i) => (i === id ? a : Math.max(a, b)), -Infinity)
    result.push({ id, margin: best - next })
  }
  return result
}
