// Rows, as the table on stdout and as JSON (docs/benchmarks.md has the schema).
import type { Machine } from './machine.ts'
import type { WeightDtype } from '../lib/model/weights.ts'
import type { RoofSet } from './roofline.ts'

export interface Row {
  name: string
  backend: string
  shape: string
  dtype: WeightDtype
  medianUs: number
  p10Us: number
  p90Us: number
  /** Bytes and FLOPs that any implementation has to move and compute. */
  bytes: number
  flops: number
  bound: 'memory' | 'compute'
  /** bytes/s when memory-bound, FLOP/s when compute-bound */
  roof: number
  fraction: number
  samples: number
  undisturbed: number
  tokensPerSecond?: number
}

/** Where the time of a model step goes. */
export interface Breakdown {
  name: string
  shape: string
  dtype: WeightDtype
  wallUs: number
  parts: { part: string; records: number; us: number; idealUs: number; fraction: number }[]
}

export interface Boundary {
  /** From run() to its promise, less the kernel, microseconds. */
  hop: { medianUs: number; p10Us: number; p90Us: number }
  /** Recording and compiling one decode-like program, per op. */
  recordUsPerOp: number
}

export interface Report {
  schema: 1
  machine: Machine
  /** For one thread and for all; then the read bandwidth again after each file, as it drifts. */
  roofs: RoofSet[]
  readDrift: { after: string; bytesPerSecond: number }[]
  boundary?: Boundary
  results: Row[]
  breakdowns: Breakdown[]
}

export const units = {
  time: (us: number): string =>
    us < 10 ? `${us.toFixed(2)} us` : us < 1e4 ? `${us.toFixed(0)} us` : `${(us / 1e3).toFixed(1)} ms`,
  bytes: (n: number): string => scaled(n, 'B'),
  flops: (n: number): string => scaled(n, 'FLOP'),
  percent: (f: number): string => `${(100 * f).toFixed(0)}%`,
}

function scaled(n: number, unit: string): string {
  const steps = ['', 'k', 'M', 'G', 'T']
  const step = n < 1 ? 0 : Math.min(steps.length - 1, Math.floor(Math.log10(n) / 3))
  return `${(n / 1000 ** step).toPrecision(3)} ${steps[step]}${unit}`
}

/** One line of the table: time, bytes or FLOPs, the bound, the share of the roof. */
export function rowLine(row: Row): string {
  const work = row.bound === 'memory' ? units.bytes(row.bytes) : units.flops(row.flops)
  return [
    row.name.padEnd(44),
    units.time(row.medianUs).padStart(10),
    work.padStart(12),
    `  ${row.bound}-bound`.padEnd(15),
    `${units.percent(row.fraction).padStart(4)} of roof`,
    row.tokensPerSecond ? `  ${row.tokensPerSecond.toPrecision(4)} tok/s` : '',
    row.undisturbed < 0.5 ? '  (busy machine)' : '',
  ].join('')
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
  return [`  fastest of the profiled steps: ${units.time(wallUs)}`, ...lines].join('\n')
}

export function roofLines(roofs: RoofSet): string {
  const gb = (n: number): string => (n / 1e9).toFixed(1)
  const line = (what: string, unit: string, roof: RoofSet['read']): string =>
    `  ${what.padEnd(12)}${gb(roof.median).padStart(8)} ${unit.padEnd(8)} best ${gb(roof.best)}, ` +
    `${roof.cleanSlices} of ${roof.slices} slices clean, ${roof.instructions}` +
    (roof.cleanSlices < 5 ? '  TOO BUSY: the best slice, at most the roof' : '')
  return [
    `roofs, ${roofs.threads} thread${roofs.threads === 1 ? '' : 's'}`,
    line('DRAM read', 'GB/s', roofs.read),
    line('DRAM copy', 'GB/s', roofs.copy),
    line('f32', 'GFLOP/s', roofs.f32),
    line('bf16', 'GFLOP/s', roofs.bf16),
  ].join('\n')
}
