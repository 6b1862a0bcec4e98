/** Spec 4.1 in f64: softmax over all experts, then the top k; sort() is stable, so ties go to the lowest index. */
export function moeGating(logits: ArrayLike<number>, numExperts: number, topK: number) {
  const expertIds: number[] = []
  const expertWeights: number[] = []
  for (let row = 0; row < logits.length; row += numExperts) {
    const z = Array.from({ length: numExperts }, (_, e) => logits[row + e]!)
    const exps = z.map((x) => Math.exp(x - Math.max(...z)))
    const sum = exps.reduce((a, b) => a + b, 0)
    const order = z.map((_, e) => e).sort((a, b) => z[b]! - z[a]!)
    for (const e of order.slice(0, topK)) {
      expertIds.push(e)
      expertWeights.push(exps[e]! / sum)
    }
  }
  return { expertIds, expertWeights }
}
