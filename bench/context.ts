// What every bench gets: a device, the roofs of this minute, and where rows go.
import type { Device } from '../lib/device.ts'
import type { Breakdown, Row } from './report.ts'
import { judge, measureRoof, type RoofSet } from './roofline.ts'
import type { Timing } from './sampling.ts'

import type { WeightDtype } from '../lib/model/weights.ts'
export type { WeightDtype }
export type ShapeName = 'tiny' | 'base' | '8b'

export interface Work {
  bytes: number
  flops: number
}

export class BenchContext {
  readonly device: Device
  readonly threads: number
  readonly shape: ShapeName
  readonly dtypes: readonly WeightDtype[]
  readonly quick: boolean
  readonly rows: Row[] = []
  readonly breakdowns: Breakdown[] = []
  readonly failures: string[] = []
  readonly readDrift: { after: string; bytesPerSecond: number }[] = []
  /** All threads. */
  roofs: RoofSet
  private readonly filters: readonly string[]

  constructor(
    options: Pick<BenchContext, 'device' | 'threads' | 'shape' | 'dtypes' | 'quick' | 'roofs'> & {
      filters: readonly string[]
    },
  ) {
    this.device = options.device
    this.threads = options.threads
    this.shape = options.shape
    this.dtypes = options.dtypes
    this.quick = options.quick
    this.roofs = options.roofs
    this.filters = options.filters
  }

  /** Whether a filter of the command line asks for this name, or for one that starts with it. */
  wants(name: string): boolean {
    return this.filters.length === 0 || this.filters.some((filter) => name.includes(filter))
  }

  /** Whether all of a group was asked for, or may be one of its rows. */
  wantsGroup(group: string): boolean {
    return (
      this.wants(group) ||
      this.filters.some((filter) => filter.startsWith(`${group}.`) || filter.startsWith(`${group} `))
    )
  }

  get budget(): { milliseconds: number; samples: number } {
    return this.quick ? { milliseconds: 50, samples: 5 } : { milliseconds: 400, samples: 15 }
  }

  /** The bandwidth drifts with the neighbours of a virtual machine: rows are compared with that of their minute. */
  async refreshReadRoof(after: string): Promise<void> {
    const read = await measureRoof('read', this.threads, this.quick ? 0.2 : 0.6)
    this.readDrift.push({ after, bytesPerSecond: read.median })
    this.roofs = { ...this.roofs, read }
  }

  row(name: string, dtype: WeightDtype, work: Work, timing: Timing, more: Partial<Row> = {}): Row {
    const { bound, roof, fraction } = judge(work, timing.medianUs, dtype, this.roofs)
    return {
      name,
      backend: this.device.name,
      shape: this.shape,
      dtype,
      ...timing,
      ...work,
      bound,
      roof,
      fraction,
      ...more,
    }
  }

  fail(message: string): void {
    this.failures.push(message)
    this.progress(`FAILED ${message}`)
  }

  progress(message: string): void {
    process.stderr.write(`${message}\n`)
  }
}
