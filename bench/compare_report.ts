// --compare FILE: against a report of another run.
import { statSync } from 'node:fs'
import { comparisonText, type Report, type Row } from './report.ts'
import { compareRanges } from './statistics.ts'

/** Whether `--compare` names a file; else it is a git revision. */
export function isReportFile(name: string): boolean {
  return statSync(name, { throwIfNoEntry: false })?.isFile() ?? false
}

const keyOf = ({ name, backend, shape, dtype }: Row): string => [name, backend, shape, dtype].join('|')

/** Notes the change of every row that both have, and returns it as lines. */
export function compareWithReport(rows: readonly Row[], baseline: Report): string[] {
  const before = new Map(baseline.results.map((row) => [keyOf(row), row]))
  const lines = [
    `compared with ${baseline.machine.commit} of ${baseline.machine.date}, on ${baseline.machine.cpu}; ` +
      'not paired: a verdict needs ranges that do not touch, and the machine may have changed meanwhile',
  ]
  for (const row of rows) {
    const old = before.get(keyOf(row))
    if (!old) continue
    row.comparison = compareRanges(old, row)
    lines.push(`${row.name.padEnd(36)} ${row.shape} ${row.dtype}  ${comparisonText(row.comparison)}`)
  }
  return lines.length > 1 ? lines : [...lines, 'no row is in both']
}
