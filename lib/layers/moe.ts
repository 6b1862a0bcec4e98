import { groupedGemm } from '../ops/grouped_gemm.ts'
import { linear } from '../ops/linear.ts'
import { moeGating } from '../ops/moe_gating.ts'
import { moePermute } from '../ops/moe_permute.ts'
import { moeRouting } from '../ops/moe_routing.ts'
import { moeUnpermute } from '../ops/moe_unpermute.ts'
import { swiglu } from '../ops/swiglu.ts'
import type { Program } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'

export interface MoeWeights {
  /** [E, D], always f32: near ties must not depend on the weights' dtype. */
  router: Matrix
  /** E x [3F, D]: a, b, up */
  gateUp: Matrix
  /** E x [D, F] */
  down: Matrix
}

/** Which tokens compete for an expert's slots, and for how many (spec 4.2-4.4). */
export interface CapacityGroups {
  /** i32 [num_groups + 1] */
  groupOffsets: Tensor
  /** i32 [num_groups], negative: no limit */
  capacity: Tensor
}

/**
 * The mixture-of-experts branch, before the residual (paper Eq. 1-2, spec section 4): gating, routing, permutation,
 * two grouped GEMMs, un-permutation.
 * @param x f32 [num_tokens, hidden_size], normed
 * @param tapName prefix of what observers may ask for: `moe.5`
 */
export function moe(
  p: Program,
  x: Tensor,
  w: MoeWeights,
  config: { topK: number; numExperts: number },
  groups: CapacityGroups,
  tapName: string,
): Tensor {
  const routerLogits = linear(p, x, w.router)
  const { expertIds, expertWeights } = moeGating(p, routerLogits, config.topK)
  const route = moeRouting(p, expertIds, { numExperts: config.numExperts, ...groups })
  const permuted = moePermute(p, x, route)
  const gateUp = groupedGemm(p, permuted, w.gateUp, route.expertOffsets)
  const expert = groupedGemm(p, swiglu(p, gateUp), w.down, route.expertOffsets)
  const output = moeUnpermute(p, expert, route, expertWeights)

  p.tap(`${tapName}.router_logits`, routerLogits)
  p.tap(`${tapName}.topk_index`, expertIds)
  p.tap(`${tapName}.topk_prob`, expertWeights)
  p.tap(`${tapName}.rank`, route.rank)
  p.tap(`${tapName}.kept`, route.rowIdMap) // row or -1; the model turns it into 0 and 1
  p.tap(`${tapName}.output`, output)
  return output
}
