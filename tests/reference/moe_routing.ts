export interface RoutingCase {
  /** [num_tokens][top_k] */
  expertIds: number[][]
  numExperts: number
  groupOffsets: number[]
  capacity: number[]
}

/** Spec 4.3 and 4.5 as they are written: ranks are counted from their definition, rows found by sorting. */
export function moeRouting({ expertIds, numExperts, groupOffsets, capacity }: RoutingCase) {
  const rank = expertIds.map((row) => row.map(() => 0))
  const rowIdMap = expertIds.map((row) => row.map(() => -1))
  const kept: { expert: number; group: number; rank: number; token: number; choice: number }[] = []
  capacity.forEach((limit, group) => {
    const tokens = expertIds.map((_, t) => t).slice(groupOffsets[group], groupOffsets[group + 1])
    for (const t of tokens) {
      expertIds[t]!.forEach((expert, k) => {
        // whoever chose this expert with an earlier choice, or with the same choice at an earlier token
        let before = 0
        for (const u of tokens) {
          expertIds[u]!.forEach((other, j) => {
            if (other === expert && (j < k || (j === k && u < t))) before++
          })
        }
        rank[t]![k] = before
        if (limit < 0 || before < limit) kept.push({ expert, group, rank: before, token: t, choice: k })
      })
    }
  })
  kept.sort((a, b) => a.expert - b.expert || a.group - b.group || a.rank - b.rank)
  kept.forEach(({ token, choice }, row) => (rowIdMap[token]![choice] = row))
  const expertOffsets = Array.from(
    { length: numExperts + 1 },
    (_, e) => kept.filter(({ expert }) => expert < e).length,
  )
  return { expertOffsets, rowIdMap: rowIdMap.flat(), rank: rank.flat() }
}
