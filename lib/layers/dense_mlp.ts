import { linear } from '../ops/linear.ts'
import { swiglu } from '../ops/swiglu.ts'
import type { Program } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'

export interface MlpWeights {
  /** [3F, D]: the gate's two halves a and b, then up. One matrix, so that x is read once. */
  gateUp: Matrix
  /** [D, F] */
  down: Matrix
}

/** The dense FFN, also the extra one of MoE layers: `down(a * silu(b) * up)` (spec 3.5). */
export function denseMlp(p: Program, x: Tensor, w: MlpWeights): Tensor {
  return linear(p, swiglu(p, linear(p, x, w.gateUp)), w.down)
}
