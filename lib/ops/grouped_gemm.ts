import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectPanel, expectTensor } from './checks.ts'

/**
 * One GEMM per expert over the rows it owns: `out[r] = x[r] weight[e]^T` for rows [o[e], o[e+1]) (spec 4.5). Experts may
 * be empty; rows past the last expert's are zero.
 * @param x f32 [num_rows, in_features], grouped by expert: plain, or from moePermute() or groupedGemmSwiglu()
 * @param weight packed num_experts x [out_features, in_features], f32 or bf16
 * @param expertOffsets i32 [num_experts + 1], exclusive; from moeRouting()
 * @returns [num_rows, out_features], grouped by expert; f32 rows when it is returned from run()
 */
export function groupedGemm(p: Program, x: TensorLike, weight: Matrix, expertOffsets: TensorLike): Tensor {
  const [numRows = 0, inFeatures = 0] = expectPanel('grouped_gemm', 'x', x, ['num_rows', 'in_features'])
  expectMatrix('grouped_gemm', 'weight', weight, inFeatures, { count: weight.count })
  const { count: numExperts, outFeatures } = weight
  expectTensor('grouped_gemm', 'expert_offsets', expertOffsets, 'i32', [numExperts + 1])
  const offsets = p.use(expertOffsets)
  const panel = p.asPanel(x, offsets)
  const out = p.allocPanel(offsets, [numRows, outFeatures])
  p.record(
    'grouped_gemm',
    { x: panel, weight, expertOffsets: offsets, out },
    { numRows, numExperts, outFeatures, inFeatures },
  )
  return out
}
