/** Offsets of `rows` rows spread evenly over as many experts as they can reach. */
export function spread(rows: number, numExperts: number): number[] {
  const busy = Math.min(rows, numExperts)
  return Array.from({ length: numExperts + 1 }, (_, e) => Math.floor((rows * Math.min(e, busy)) / busy))
}
