// What a run leaves behind, as JSON (docs/bench.schema.json) and as lines of text.
import { readFileSync } from 'node:fs'
import { OpenMoeError } from '#lib/errors'
import type { WeightDtype } from '#lib/model/weights'
import type { Machine } from './machine.ts'
import type { Roof, RoofSet } from './roofline.ts'
import type { Comparison, Timing } from './statistics.ts'

/**
 * What a row is held against. memory, compute: a roof measured in this run. The others are for work that no roof of the
 * hardware describes: the same work by the native program alone (native), reading the file (file), the same work on a
 * machine that is otherwise idle (idle), or a limit we set ourselves (limit).
 */
export type Bound = 'memory' | 'compute' | 'native' | 'file' | 'idle' | 'limit'

export interface Row extends Timing {
  name: string
  backend: string
  shape: string
  dtype: WeightDtype
  /** Bytes and FLOPs that any implementation has to move and compute. */
  bytes: number
  flops: number
  bound: Bound
  /** bytes/s (memory, file), FLOP/s (compute), or microseconds (native, idle, limit) */
  roof: number
  /** Share of the roof that was reached, or roof / median where the roof is a time. */
  fraction: number
  tokensPerSecond?: number
  /** What else there is to know, in a sentence. */
  note?: string
  /** B against A: this row's time over that of the baseline. */
  comparison?: Comparison
}

/** Where the time of a model step goes. */
export interface Breakdown {
  name: string
  shape: string
  dtype: WeightDtype
  wallUs: number
  parts: { part: string; records: number; us: number; idealUs: number; fraction: number }[]
}

export interface Report {
  schema: 2
  machine: Machine
  /** At the start, for one thread and for all. */
  roofs: RoofSet[]
  /** The read bandwidth beside the samples of a row. */
  readDrift: { when: string; bytesPerSecond: number }[]
  results: Row[]
  breakdowns: Breakdown[]
  failures: string[]
}

/** A report written by `--json`. */
export function readReport(file: string): Report {
  const refuse = (reason: string, cause?: unknown): never => {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${file}: ${reason}`, { cause })
  }
  let report: Partial<Report> | null
  try {
    report = JSON.parse(readFileSync(file, 'utf8')) as Partial<Report> | null
  } catch (cause) {
    return refuse(`this is no report of a benchmark (${(cause as Error).message}).`, cause)
  }
  if (report?.schema !== 2 || !Array.isArray(report.results)) {
    return refuse('this is no report of this version. Make one with: openmoe bench --json FILE')
  }
  return report as Report
}

export const units = {
  time: (us: number): string =>
    us < 10 ? `${us.toFixed(2)} us` : us < 1e4 ? `${us.toFixed(0)} us` : `${(us / 1e3).toFixed(1)} ms`,
  bytes: (n: number): string => scaled(n, 'B'),
  flops: (n: number): string => scaled(n, 'FLOP'),
  percent: (f: number): string => `${(100 * f).toFixed(0)}%`,
  change: (ratio: number): string => `${ratio >= 1 ? '+' : ''}${(100 * (ratio - 1)).toFixed(1)}%`,
}

function scaled(n: number, unit: string): string {
  const steps = ['', 'k', 'M', 'G', 'T']
  const step = n < 1 ? 0 : Math.min(steps.length - 1, Math.floor(Math.log10(n) / 3))
  return `${(n / 1000 ** step).toPrecision(3)} ${steps[step]}${unit}`
}

/** `90% of roof`, `1.4x the limit` and so on. */
function judged({ bound, fraction, roof }: Row): string {
  if (bound === 'memory' || bound === 'compute') return `${units.percent(fraction).padStart(4)} of roof`
  if (bound === 'file') return `${units.percent(fraction).padStart(4)} of read rate`
  if (bound === 'limit') return `${units.percent(1 / fraction).padStart(4)} of limit ${units.time(roof)}`
  return `${units.percent(fraction).padStart(4)} of ${bound} speed`
}

/** One line of the table: time, its spread, bytes or FLOPs, the bound, the share of the roof. */
export function rowLine(row: Row): string {
  const work = row.bound === 'compute' ? units.flops(row.flops) : row.bytes ? units.bytes(row.bytes) : ''
  return [
    row.name.padEnd(36),
    units.time(row.medianUs).padStart(10),
    `  [${units.time(row.p10Us)}, ${units.time(row.p90Us)}]`.padEnd(24),
    work.padStart(11),
    `  ${row.bound}-bound`.padEnd(15),
    judged(row),
    row.tokensPerSecond ? `  ${row.tokensPerSecond.toPrecision(4)} tok/s` : '',
    row.comparison ? `  ${comparisonText(row.comparison)}` : '',
    row.note ? `  ${row.note}` : '',
    row.undisturbed < 0.5 ? '  (busy machine)' : '',
  ].join('')
}

/** `-12.4% [-13.0%, -11.9%] faster`: the change of time, its 95 % interval, the verdict. */
export function comparisonText({ ratio, interval, verdict }: Comparison): string {
  return `${units.change(ratio)} [${units.change(interval.low)}, ${units.change(interval.high)}] ${verdict}`
}

export function breakdownLines({ wallUs, parts }: Breakdown): string {
  // What takes less than a thousandth of the step is only in the JSON.
  const lines = parts
    .filter(({ us }) => us >= wallUs / 1000)
    .map(({ part, records, us, idealUs, fraction }) =>
      [
        `  ${part}`.padEnd(34),
        `${records} x`.padStart(6),
        units.time(us).padStart(10),
        `${units.percent(us / wallUs).padStart(5)} of step`,
        idealUs > 0 ? `${units.percent(fraction).padStart(7)} of roof` : ' '.repeat(15),
        `${units.time(us - idealUs).padStart(12)} lost`,
      ].join(''),
    )
  return [`  fastest of the profiled runs, a step: ${units.time(wallUs)}`, ...lines].join('\n')
}

export function roofLines(roofs: RoofSet): string {
  const gb = (n: number): string => (n / 1e9).toFixed(1)
  const line = (what: string, unit: string, roof: Roof): string =>
    `  ${what.padEnd(12)}${gb(roof.median).padStart(8)} ${unit.padEnd(8)} best ${gb(roof.best)}, ` +
    `${roof.cleanSlices} of ${roof.slices} slices clean, ${roof.instructions}` +
    (roof.cleanSlices < 5 ? '  TOO BUSY: the best slice, at most the roof' : '')
  return [
    roofs.threads === 0 ? 'roofs' : `roofs, ${roofs.threads} thread${roofs.threads === 1 ? '' : 's'}`,
    line('DRAM read', 'GB/s', roofs.read),
    line('DRAM copy', 'GB/s', roofs.copy),
    line('f32', 'GFLOP/s', roofs.f32),
    line('bf16', 'GFLOP/s', roofs.bf16),
    line('int8', 'GOP/s', roofs.int8),
  ].join('\n')
}
