import { i32 } from './random.ts'

/** Offsets of `rows` rows spread evenly over as many experts as they can reach. */
export function spread(rows: number, numExperts: number): number[] {
  const busy = Math.min(rows, numExperts)
  return Array.from({ length: numExperts + 1 }, (_, e) => Math.floor((rows * Math.min(e, busy)) / busy))
}

/** A route that leaves `rows` rows where they are, all with one expert. */
export function identityRoute(rows: number) {
  const order = Array.from({ length: rows }, (_, row) => row)
  return { rowIdMap: i32(order, [rows, 1]), expertOffsets: i32([0, rows]) }
}
