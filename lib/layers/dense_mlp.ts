import { groupedGemmSwiglu } from '../ops/grouped_gemm_swiglu.ts'
import { linear } from '../ops/linear.ts'
import type { Program } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'

export interface MlpWeights {
  /** [3F, D] of layout 'gate_up': the gate's two halves a and b, then up. One matrix, so that x is read once. */
  gateUp: Matrix
  /** [D, F] */
  down: Matrix
}

/**
 * The dense FFN, also the extra one of MoE layers, and its residual: `residual + down(a * silu(b) * up)` (spec 3.5). The
 * first half is that of a mixture of one expert, which has all rows.
 * @param input.allRows i32 [2]: 0 and the number of rows
 */
export function denseMlp(
  p: Program,
  input: { x: Tensor; residual: Tensor; allRows: Tensor },
  w: MlpWeights,
): Tensor {
  const activated = groupedGemmSwiglu(p, input.x, w.gateUp, input.allRows)
  return linear(p, p.asRows(activated), w.down, input.residual)
}
