import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * Copies every token to the rows of its experts: `permuted[row_id_map[t, k]] = x[t]`. The map names each row below
 * expert_offsets[num_experts] once, as moeRouting()'s does; the rows past them are zero.
 * @param x f32 [num_tokens, hidden_size]
 * @param route rowIdMap i32 [num_tokens, top_k] and expertOffsets i32 [num_experts + 1], from moeRouting()
 * @returns [num_tokens * top_k, hidden_size], grouped by expert; f32 rows when it is returned from run()
 */
export function moePermute(
  p: Program,
  x: TensorLike,
  route: { rowIdMap: TensorLike; expertOffsets: TensorLike },
): Tensor {
  const op = 'moe_permute'
  const [numTokens = 0, hiddenSize = 0] = expectTensor(op, 'x', x, 'f32', ['num_tokens', 'hidden_size'])
  const [, topK = 0] = expectTensor(op, 'row_id_map', route.rowIdMap, 'i32', [numTokens, 'top_k'])
  const [ends = 1] = expectTensor(op, 'expert_offsets', route.expertOffsets, 'i32', ['num_experts+1'])
  const expertOffsets = p.use(route.expertOffsets)
  const permuted = p.allocPanel(expertOffsets, [numTokens * topK, hiddenSize])
  p.record(
    op,
    { x: p.use(x), rowIdMap: p.use(route.rowIdMap), expertOffsets, permuted },
    { numTokens, topK, numExperts: ends - 1, hiddenSize },
  )
  return permuted
}
