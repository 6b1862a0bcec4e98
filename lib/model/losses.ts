// The training objective's terms on a forward pass (spec section 8), as the reference reports them.
import type { OpenMoeConfig } from './config.ts'
import type { ForwardResult } from './forward.ts'

export interface Losses {
  num_targets: number
  /** Paper Eq. 5-6 with both choices counted: 2 when balanced. Per MoE layer. */
  load_balance_per_layer: number[]
  /** Paper Eq. 7, per MoE layer. */
  router_z_per_layer: number[]
  nll?: number
  ce_smoothed?: number
  log_z_squared?: number
  /** Paper Eq. 8. */
  total?: number
}

/** Needs all logits and the taps moe.*.router_logits and moe.*.topk_index. Token means, in f64. */
export function computeLosses(
  config: OpenMoeConfig,
  sequences: readonly (readonly number[])[],
  result: ForwardResult,
): Losses {
  const layers = Object.keys(result.taps)
    .flatMap((name) => /^moe\.(\d+)\.router_logits$/.exec(name)?.[1] ?? [])
    .sort((a, b) => Number(a) - Number(b))
  const router = layers.map((i) =>
    routerLosses(
      result.taps[`moe.${i}.router_logits`]!.data,
      result.taps[`moe.${i}.topk_index`]!.data,
      config.numExperts,
    ),
  )
  const losses: Losses = {
    num_targets: sequences.reduce((sum, ids) => sum + ids.length - 1, 0),
    load_balance_per_layer: router.map(({ loadBalance }) => loadBalance),
    router_z_per_layer: router.map(({ z }) => z),
  }
  const logits = result.logits?.data as Float32Array | undefined
  if (!logits || losses.num_targets === 0) return losses

  const v = config.vocabSize
  const on = 1 - config.labelSmoothing
  const off = config.labelSmoothing / (v - 1)
  // Cross entropy at the softened targets themselves, so that a perfect prediction scores 0.
  const floor = -(on * Math.log(on) + (v - 1) * off * Math.log(off + 1e-20))
  let nll = 0
  let smoothed = 0
  let squaredLogZ = 0
  let row = 0
  for (const ids of sequences) {
    for (let t = 0; t < ids.length; t++, row++) {
      if (t + 1 === ids.length) continue
      const values = logits.subarray(row * v, (row + 1) * v)
      const logZ = logSumExp(values)
      const hit = values[ids[t + 1]!]! - logZ
      const sum = values.reduce((total, x) => total + x, 0) - v * logZ
      nll -= hit
      smoothed -= on * hit + off * (sum - hit) + floor
      squaredLogZ += logZ ** 2
    }
  }
  const n = losses.num_targets
  losses.nll = nll / n
  losses.ce_smoothed = smoothed / n
  losses.log_z_squared = squaredLogZ / n
  losses.total =
    losses.ce_smoothed +
    config.zLossFactor * losses.log_z_squared +
    config.routerAuxLossFactor * mean(losses.load_balance_per_layer) +
    config.routerZLossFactor * mean(losses.router_z_per_layer)
  return losses
}

function routerLosses(
  logits: ArrayLike<number>,
  choices: ArrayLike<number>,
  numExperts: number,
): { loadBalance: number; z: number } {
  const numTokens = logits.length / numExperts
  const probability = new Float64Array(numExperts)
  const load = new Float64Array(numExperts)
  for (let i = 0; i < choices.length; i++) load[choices[i]!]! += 1 / numTokens
  let z = 0
  for (let t = 0; t < numTokens; t++) {
    const row = Array.from({ length: numExperts }, (_, e) => logits[t * numExperts + e]!)
    const logZ = logSumExp(row)
    z += logZ ** 2 / numTokens
    row.forEach((x, e) => (probability[e]! += Math.exp(x - logZ) / numTokens))
  }
  return { loadBalance: numExperts * load.reduce((sum, m, e) => sum + m * probability[e]!, 0), z }
}

function logSumExp(values: ArrayLike<number>): number {
  let max = -Infinity
  for (let i = 0; i < values.length; i++) max = Math.max(max, values[i]!)
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i]! - max)
  return max + Math.log(sum)
}

const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length
