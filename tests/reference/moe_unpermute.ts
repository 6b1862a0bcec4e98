/** Spec 4.3 in f64: the weighted sum of a token's kept copies. */
export function moeUnpermute(
  permuted: ArrayLike<number>,
  rowIdMap: ArrayLike<number>,
  expertWeights: ArrayLike<number>,
  shape: { numTokens: number; topK: number; hiddenSize: number },
): number[] {
  const { numTokens, topK, hiddenSize } = shape
  const out: number[] = []
  for (let t = 0; t < numTokens; t++) {
    for (let c = 0; c < hiddenSize; c++) {
      let sum = 0
      for (let k = 0; k < topK; k++) {
        const row = rowIdMap[t * topK + k]!
        if (row >= 0) sum += expertWeights[t * topK + k]! * permuted[row * hiddenSize + c]!
      }
      out.push(sum)
    }
  }
  return out
}
