/** permuted[rowIdMap[t][k]] = x[t]; everything else is zero. */
export function moePermute(x: ArrayLike<number>, rowIdMap: ArrayLike<number>, numTokens: number): number[] {
  const topK = numTokens === 0 ? 0 : rowIdMap.length / numTokens
  const hiddenSize = numTokens === 0 ? 0 : x.length / numTokens
  const permuted = new Array<number>(rowIdMap.length * hiddenSize).fill(0)
  for (let i = 0; i < rowIdMap.length; i++) {
    const token = Math.floor(i / topK)
    for (let c = 0; rowIdMap[i]! >= 0 && c < hiddenSize; c++) {
      permuted[rowIdMap[i]! * hiddenSize + c] = x[token * hiddenSize + c]!
    }
  }
  return permuted
}
