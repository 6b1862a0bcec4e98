import { moeGating } from './moe_gating.ts'

/** x W^T in f64, and the choice that follows from those logits. */
export function moeRouter(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  numExperts: number,
  topK: number,
): { routerLogits: Float64Array; expertIds: number[]; expertWeights: number[] } {
  const hiddenSize = weight.length / numExperts
  const numTokens = hiddenSize === 0 ? 0 : x.length / hiddenSize
  const routerLogits = new Float64Array(numTokens * numExperts)
  for (let t = 0; t < numTokens; t++) {
    for (let e = 0; e < numExperts; e++) {
      for (let k = 0; k < hiddenSize; k++)
        routerLogits[t * numExperts + e]! += x[t * hiddenSize + k]! * weight[e * hiddenSize + k]!
    }
  }
  return { routerLogits, ...moeGating(routerLogits, numExperts, topK) }
}
