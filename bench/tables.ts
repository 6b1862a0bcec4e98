// Measured rows as Markdown tables, for README.md and docs/benchmarks.md.
import type { Machine } from './machine.ts'
import { type Report, type Row, units } from './report.ts'

/** What bench/peers/run.ts writes. */
export interface PeerReport {
  machine: Pick<Machine, 'cpu' | 'cpus' | 'isa'>
  versions: Record<string, string>
  rows: {
    peer: string
    work: string
    shape: string
    theirWeights: string
    ourWeights: string
    theirs: { medianUs: number }
    ours: { medianUs: number }
    speedup: number
    interval: { low: number; high: number }
    verdict: string
  }[]
}

/** Replaces what stands between `<!-- name -->` and `<!-- name: end -->`; the marks stay. */
export function replaceBetween(text: string, name: string, content: string): string {
  const begin = new RegExp(`<!-- ${name}(:(?! end)[^>]*)? -->\n`).exec(text)
  const end = text.indexOf(`<!-- ${name}: end -->`)
  if (!begin || end < begin.index)
    throw new Error(`there are no marks <!-- ${name} --> ... <!-- ${name}: end -->`)
  return `${text.slice(0, begin.index + begin[0].length)}\n${content}\n\n${text.slice(end)}`
}

function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly number[],
): string {
  const widths = head.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]!.length), 3))
  const pad = (cell: string, i: number): string =>
    right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)
  const line = (cells: readonly string[]): string => `| ${cells.map(pad).join(' | ')} |`
  const rule = widths.map((width, i) => (right.includes(i) ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)))
  return [line(head), line(rule), ...rows.map(line)].join('\n')
}

const perSecond = (n: number): string => (n < 1000 ? n.toPrecision(3) : Math.round(n).toString())
const gb = (n: number): string => (n / 1e9).toFixed(1)

/** `held against`, in words. */
function against({ bound, roof, fraction, note }: Row): string {
  const share = units.percent(fraction)
  switch (bound) {
    case 'memory':
      return `${share} of ${gb(roof)} GB/s`
    case 'compute':
      return `${share} of ${gb(roof)} GFLOP/s`
    case 'file':
      return `${share} of reading it at ${gb(roof)} GB/s`
    case 'native':
      return `${share} of the native speed`
    case 'idle':
      return `${share} of the quiet speed`
    case 'limit':
      return [`limit ${units.time(roof)}`, ...(note ? [note] : [])].join('; ')
  }
}

/** Every row of a report. */
export function resultsTable({ results }: Report): string {
  const rows = results.map((row) => [
    row.name,
    `${row.shape} ${row.dtype}`,
    units.time(row.medianUs),
    `${units.time(row.p10Us)} to ${units.time(row.p90Us)}`,
    row.tokensPerSecond ? perSecond(row.tokensPerSecond) : '',
    against(row),
  ])
  return table(['row', 'shape', 'median', 'p10 to p90', 'tok/s', 'held against'], rows, [2, 3, 4])
}

/** A section of `content` for each machine, in the order in which they come; under its name if there are several. */
export function byMachine<T extends { machine: Pick<Machine, 'cpu' | 'cpus' | 'isa'> }>(
  reports: readonly T[],
  content: (reports: readonly T[]) => string,
): string {
  const machines = new Map<string, T[]>()
  for (const report of reports) {
    const { cpu, cpus, isa } = report.machine
    const name = `${cpu}, ${cpus} CPUs, ${isa}`
    machines.set(name, [...(machines.get(name) ?? []), report])
  }
  if (machines.size === 1) return content(reports)
  return [...machines].map(([name, own]) => `**${name}**\n\n${content(own)}`).join('\n\n')
}

/** The machine and its roofs, as the line under a table. */
export function conditions({ machine, roofs }: Report): string {
  const { read, f32, bf16, int8 } = roofs.at(-1)!
  return (
    `${machine.cpu}, ${machine.cpus} CPUs, ${machine.threads} threads, ${machine.isa}, Node ${machine.node}, ` +
    `commit ${machine.commit}, ${machine.date.slice(0, 10)}. Roofs at the start of the run: read ${gb(read.median)} GB/s, ` +
    `f32 ${gb(f32.median)}, bf16 ${gb(bf16.median)} GFLOP/s, int8 ${gb(int8.median)} GOP/s.`
  )
}

/** Rows a reader of the README asks for first, with the words for them. */
const SUMMARY: [RegExp, (row: Row) => string][] = [
  [/^model\.decode b=(1|8|64)$/, ({ name }) => `decode, batch ${name.split('=')[1]}`],
  [/^model\.prefill t=512$/, () => 'a prompt of 512 tokens'],
  [/^moe_layer t=(1|512)$/, ({ name }) => `one MoE layer, tokens: ${name.split('=')[1]}`],
  [/^node\.generate$/, () => 'generate() from Node.js'],
  [/^node\.neighbour$/, () => 'the same beside a niced job on every core'],
  [/^node\.event_loop$/, () => 'event-loop delay while generating, p99'],
  [/^node\.load$/, () => 'loading'],
  [/^node\.first_token$/, () => 'import to first token'],
]

/** A line for each thing. What was measured several times, in other minutes, has the range and all its shares. */
export function summaryTable(reports: readonly Report[]): string {
  const results = reports.flatMap((report) => report.results).sort((a, b) => b.medianUs - a.medianUs)
  const lines = SUMMARY.flatMap(([pattern, words]) => {
    const things = new Map<string, Row[]>()
    for (const row of results.filter(({ name }) => pattern.test(name))) {
      const thing = `${row.name} ${row.shape} ${row.dtype}`
      things.set(thing, [...(things.get(thing) ?? []), row])
    }
    return [...things]
      .sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }))
      .map(([, rows]) => {
        const { shape, dtype } = rows[0]!
        return [words(rows[0]!), `${shape}, ${dtype}`, speeds(rows), rows.map(against).join('; ')]
      })
  })
  return table(['what', 'shape, weights', 'measured', 'held against'], lines, [2])
}

/** Of one row, or from the first to the last, which is the fastest. */
function speeds(rows: readonly Row[]): string {
  const ends = rows.length > 1 ? [rows.at(0)!, rows.at(-1)!] : rows
  const perToken = ends.flatMap(({ tokensPerSecond }) =>
    tokensPerSecond ? [perSecond(tokensPerSecond)] : [],
  )
  return perToken.length > 0
    ? `${perToken.join(' to ')} tok/s`
    : ends.map(({ medianUs }) => units.time(medianUs)).join(' to ')
}

export function peersTable(reports: readonly PeerReport[]): string {
  const rows = reports
    .flatMap((report) => report.rows)
    .map((row) => [
      `${row.peer}, ${row.theirWeights}`,
      row.work,
      `${row.shape}, ${row.ourWeights}`,
      units.time(row.theirs.medianUs),
      units.time(row.ours.medianUs),
      `${row.speedup.toFixed(2)} x [${row.interval.low.toFixed(2)}, ${row.interval.high.toFixed(2)}]`,
    ])
  return table(['peer', 'work', 'ours', 'their time', 'our time', 'we are faster by'], rows, [3, 4, 5])
}

/** What the peers were, as the line under their table. */
export function peerVersions(reports: readonly PeerReport[]): string {
  const found = new Map(
    reports.flatMap(({ versions, rows }) =>
      Object.entries(versions).filter(([name]) => rows.some(({ peer }) => peer.startsWith(name))),
    ),
  )
  return `Versions: ${[...found].map(([name, version]) => `${name} ${version}`).join('; ')}.`
}
