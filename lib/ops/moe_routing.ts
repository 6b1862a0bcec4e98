import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/** Where each choice of a token goes. */
export interface Route {
  /** i32 [num_experts + 1], exclusive */
  expertOffsets: Tensor
  /** i32 [num_tokens, top_k], -1 = dropped */
  rowIdMap: Tensor
  /** i32 [num_tokens, top_k], before dropping */
  rank: Tensor
}

/**
 * Ranks, drops and rows (spec 4.3-4.5): within a capacity group every first choice is ranked before any second choice,
 * each in token order; rank >= capacity drops it. Kept choices get rows sorted by expert, then group, then rank.
 * @param expertIds i32 [num_tokens, top_k]
 * @param options.groupOffsets i32 [num_groups + 1]: tokens of each capacity group
 * @param options.capacity i32 [num_groups]: rows an expert may take, negative for no limit
 */
export function moeRouting(
  p: Program,
  expertIds: TensorLike,
  options: { numExperts: number; groupOffsets: TensorLike; capacity: TensorLike },
): Route {
  const { numExperts, groupOffsets, capacity } = options
  const [numTokens = 0, topK = 0] = expectTensor('moe_routing', 'expert_ids', expertIds, 'i32', [
    'num_tokens',
    'top_k',
  ])
  const [numGroups = 0] = expectTensor('moe_routing', 'capacity', capacity, 'i32', ['num_groups'])
  expectTensor('moe_routing', 'group_offsets', groupOffsets, 'i32', [numGroups + 1])
  const expertOffsets = p.alloc('i32', [numExperts + 1])
  const rowIdMap = p.alloc('i32', [numTokens, topK])
  const rank = p.alloc('i32', [numTokens, topK])
  p.record(
    'moe_routing',
    {
      expertIds: p.use(expertIds),
      groupOffsets: p.use(groupOffsets),
      capacity: p.use(capacity),
      expertOffsets,
      rowIdMap,
      rank,
    },
    { numTokens, topK, numGroups, numExperts },
  )
  return { expertOffsets, rowIdMap, rank }
}
