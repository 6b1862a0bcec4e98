import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectPanel, expectTensor, expectThat } from './checks.ts'

/**
 * The first half of every expert: `out[r] = a * silu(b) * up` with `[a | b | up] = x[r] weight[e]^T` for rows
 * [o[e], o[e+1]) (spec 3.5 and 4.5). Experts may be empty; rows past the last expert's are zero.
 * @param x f32 [num_rows, in_features], grouped by expert: plain, or from moePermute()
 * @param weight packed num_experts x [3*intermediate_size, in_features] of layout 'gate_up', f32 or bf16
 * @param expertOffsets i32 [num_experts + 1], exclusive; from moeRouting()
 * @returns [num_rows, intermediate_size], grouped by expert; f32 rows when it is returned from run()
 */
export function groupedGemmSwiglu(
  p: Program,
  x: TensorLike,
  weight: Matrix,
  expertOffsets: TensorLike,
): Tensor {
  const op = 'grouped_gemm_swiglu'
  const [numRows = 0, inFeatures = 0] = expectPanel(op, 'x', x, ['num_rows', 'in_features'])
  expectMatrix(op, 'weight', weight, inFeatures, { count: weight.count, layout: 'gate_up' })
  const { count: numExperts, outFeatures } = weight
  expectThat(outFeatures % 3 === 0, op, `weight has ${outFeatures} rows, expected 3*intermediate_size`)
  expectTensor(op, 'expert_offsets', expertOffsets, 'i32', [numExperts + 1])
  const intermediateSize = outFeatures / 3
  const offsets = p.use(expertOffsets)
  const panel = p.asPanel(x, offsets)
  const out = p.allocPanel(offsets, [numRows, intermediateSize])
  p.record(
    op,
    { x: panel, weight, expertOffsets: offsets, out },
    { numRows, numExperts, intermediateSize, inFeatures },
  )
  return out
}
