import { groupedGemm } from '../ops/grouped_gemm.ts'
import { groupedGemmSwiglu } from '../ops/grouped_gemm_swiglu.ts'
import { moePermute } from '../ops/moe_permute.ts'
import { moeRouter } from '../ops/moe_router.ts'
import { moeRouting } from '../ops/moe_routing.ts'
import { moeUnpermute } from '../ops/moe_unpermute.ts'
import type { Program } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'

export interface MoeWeights {
  /** f32 [E, D], whatever the other weights are: near ties must not depend on their dtype. */
  router: Tensor
  /** E x [3F, D]: a, b, up; of layout 'gate_up' */
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
 * The mixture-of-experts branch (paper Eq. 1-2, spec section 4): router, routing, permutation, two grouped GEMMs,
 * un-permutation.
 * @param input.x f32 [num_tokens, hidden_size], normed
 * @param input.residual f32 [num_tokens, hidden_size]: what the branch is added to; without it the branch alone
 * @param tapName prefix of what observers may ask for: `moe.5`; without it nobody observes the branch
 */
export function moe(
  p: Program,
  input: { x: Tensor; residual?: Tensor },
  w: MoeWeights,
  config: { topK: number; numExperts: number },
  groups: CapacityGroups,
  tapName?: string,
): Tensor {
  const { expertIds, expertWeights } = observedRouter(p, input.x, w.router, config.topK, tapName)
  const route = moeRouting(p, expertIds, { numExperts: config.numExperts, ...groups })
  const permuted = moePermute(p, input.x, route)
  const activated = groupedGemmSwiglu(p, permuted, w.gateUp, route.expertOffsets)
  const expert = groupedGemm(p, activated, w.down, route.expertOffsets)
  const output = moeUnpermute(p, expert, route, expertWeights, input.residual)

  if (tapName) {
    p.tap(`${tapName}.rank`, route.rank)
    p.tap(`${tapName}.kept`, route.rowIdMap) // row or -1; the model turns it into 0 and 1
    p.tap(`${tapName}.output`, () =>
      input.residual ? moeUnpermute(p, expert, route, expertWeights) : output,
    )
  }
  return output
}

/** The router, and its part of what observers may ask for. */
export function observedRouter(
  p: Program,
  x: Tensor,
  router: Tensor,
  topK: number,
  tapName?: string,
): ReturnType<typeof moeRouter> {
  const routed = moeRouter(p, x, router, topK)
  if (tapName) {
    p.tap(`${tapName}.router_logits`, routed.routerLogits)
    p.tap(`${tapName}.topk_index`, routed.expertIds)
    p.tap(`${tapName}.topk_prob`, routed.expertWeights)
  }
  return routed
}
