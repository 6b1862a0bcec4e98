// Everything that can be measured, by name.
import { boundaryBenches } from './boundary.bench.ts'
import { caseGroups } from './case_groups.ts'
import { type NodeBench, nodeBenches } from './node/index.ts'

/** Benches with a measure of their own, by the row they make. */
export const rowBenches: readonly NodeBench[] = [...boundaryBenches, ...nodeBenches]

export const groupNames = (): string[] => [
  ...caseGroups().map(({ name }) => name),
  ...new Set(rowBenches.map(({ name }) => name.split('.')[0]!)),
]

/** What --list prints: groups, and the rows whose names do not depend on sizes. */
export const rowNames = (): string[] => [
  'roofs',
  ...caseGroups().map(({ name }) => name),
  'model.decode',
  'model.prefill',
  ...rowBenches.map(({ name }) => name),
]
