// One run: roofs first, then every group that was asked for, row by row.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Device, type DeviceOptions, devices, openDevice } from '#lib/device'
import { type BenchCase, type Group, Lab } from './cases.ts'
import { compareWithRevision } from './compare_revision.ts'
import { compareWithReport, isReportFile } from './compare_report.ts'
import { caseGroups } from './case_groups.ts'
import { rowBenches } from './groups.ts'
import { describeMachine } from './machine.ts'
import { type BenchOptions, wantsGroup, wantsRow } from './options.ts'
import { Progress } from './progress.ts'
import {
  breakdownLines,
  type Breakdown,
  readReport,
  type Report,
  roofLines,
  type Row,
  rowLine,
} from './report.ts'
import { judge, measureReadRoof, measureRoofs, type RoofSet, type Work } from './roofline.ts'
import { type Budget, collect } from './sampling.ts'
import type { TypedShape } from './shapes.ts'
import type { Timing } from './statistics.ts'

// Older than this, and the read bandwidth may be another: it drifts with the neighbours of a virtual machine.
const FRESH_MS = 3000
// 17 GB of weights are made only for who asks by name.
const ONLY_BY_NAME = { group: 'model', shape: '8b' }

/** @returns what failed, in sentences; the rest was measured and written */
export async function runSuite(options: BenchOptions): Promise<string[]> {
  const baseline = options.compare && isReportFile(options.compare) ? readReport(options.compare) : undefined
  const threads = options.threads ?? devices()[0]!.defaultThreads
  await using device = await openDevice(options.device, { threads, isa: options.isa })
  const suite = new Suite(device, threads, options)
  await suite.measureRoofs()
  for (const shape of options.shapes) {
    for (const dtype of options.dtypes) await suite.runShape({ ...shape, dtype })
  }
  await suite.finish()
  const report = suite.report
  if (baseline) compareWithReport(report.results, baseline).forEach((line) => suite.progress.print(line))
  else if (options.compare) report.results.push(...(await compareWithRevision(suite, options)))
  if (options.json) write(options.json, `${JSON.stringify(report, null, 2)}\n`)
  if (options.html) await writePage(options.html, report)
  suite.progress.stop()
  return report.failures
}

export class Suite {
  readonly report: Report
  readonly progress = new Progress()
  readonly device: Device
  readonly threads: number
  readonly options: BenchOptions
  private readonly lab: Lab
  /** Of all threads, with the read bandwidth of this minute. */
  roofs!: RoofSet
  private measuredAt = 0

  constructor(device: Device, threads: number, options: BenchOptions) {
    this.device = device
    this.threads = threads
    this.options = options
    this.lab = new Lab(device, { threads, quick: options.quick })
    const machine = describeMachine(threads, options.isa)
    this.report = {
      schema: 2,
      machine,
      roofs: [],
      readDrift: [],
      results: [],
      breakdowns: [],
      failures: [],
    }
    this.progress.note(`${machine.cpu}, ${machine.isa}, ${threads} threads, load ${machine.load.toFixed(1)}`)
  }

  /** How to open another device like this one. */
  get deviceOptions(): DeviceOptions & { device: string } {
    return { device: this.options.device, threads: this.threads, isa: this.options.isa }
  }

  get budget(): Budget {
    return this.options.quick ? { milliseconds: 50, samples: 5 } : { milliseconds: 400, samples: 15 }
  }

  async measureRoofs(): Promise<void> {
    const { quick } = this.options
    const seconds = quick ? 0.3 : 1.5
    for (const count of new Set([1, this.threads])) {
      this.progress.step(`roofs, ${count} thread${count === 1 ? '' : 's'}`)
      const set = await measureRoofs(this.device, {
        threads: count,
        isa: this.report.machine.isa,
        seconds,
        quick,
      })
      this.report.roofs.push(set)
      this.roofs = set
      this.progress.print(roofLines(set))
      if (set.threads === 0) break // a device whose threads nobody chooses
    }
    this.measuredAt = performance.now()
  }

  async runShape(shape: TypedShape): Promise<void> {
    const { options } = this
    const groups = this.options.compare && !isReportFile(this.options.compare) ? [] : caseGroups()
    const wanted = groups.filter(
      ({ name }) =>
        wantsGroup(options, name) &&
        (options.names.length > 0 || name !== ONLY_BY_NAME.group || shape.name !== ONLY_BY_NAME.shape),
    )
    const benches = rowBenches.filter(({ name }) => groups.length > 0 && wantsRow(options, name))
    this.progress.expect(wanted.length + benches.length)
    for (const group of wanted) {
      this.progress.step(`${group.name} ${shape.name} ${shape.dtype}`)
      await this.guard(`${group.name} ${shape.name} ${shape.dtype}`, () => this.runGroup(group, shape))
    }
    for (const bench of benches) {
      this.progress.step(`${bench.name} ${shape.name} ${shape.dtype}`)
      await this.guard(`${bench.name} ${shape.name} ${shape.dtype}`, async () => {
        const rows = await bench.run({ lab: this.lab, suite: this, shape })
        rows.forEach((row) => this.add(row))
      })
    }
  }

  /** One broken bench must not cost the results of the others. */
  private async guard(what: string, body: () => Promise<void>): Promise<void> {
    try {
      await body()
    } catch (error) {
      this.fail(`${what}: ${(error as Error).message}`)
    }
  }

  fail(message: string): void {
    this.report.failures.push(message)
    this.progress.note(`FAILED ${message}`)
  }

  private async runGroup(group: Group, shape: TypedShape): Promise<void> {
    const { cases, close } = await group.open(this.lab, shape)
    try {
      for (const benchCase of cases) {
        if (wantsRow(this.options, benchCase.name)) await this.runCase(benchCase, shape)
      }
    } finally {
      close()
    }
  }

  private async runCase(benchCase: BenchCase, shape: TypedShape): Promise<void> {
    const { name, tokens, breakDown } = benchCase
    const sampler = await benchCase.prepare()
    await this.refreshReadRoof(`before ${name} ${shape.dtype}`)
    try {
      const before = this.roofs
      const timing = await collect(() => sampler.sample(), this.budgetOf(benchCase))
      if (tokens !== undefined) await this.refreshReadRoof(`after ${name} ${shape.dtype}`, 0)
      const more = tokens === undefined ? {} : { tokensPerSecond: (tokens * 1e6) / timing.medianUs }
      const roofs = between(before, this.roofs)
      this.add(this.row(name, shape, benchCase.work(), timing, { roofs, ...more }))
      if (breakDown) this.addBreakdown(await breakDown.call(benchCase, this.roofs))
    } finally {
      sampler.dispose()
    }
  }

  /** Steps of a whole model take longer, and vary more with what they are routed to. */
  private budgetOf({ tokens }: BenchCase): Budget {
    if (tokens === undefined) return this.budget
    return this.options.quick ? { milliseconds: 200, samples: 5 } : { milliseconds: 2500, samples: 9 }
  }

  /** A row held against the roofs of this minute. */
  row(
    name: string,
    shape: TypedShape,
    work: Work,
    timing: Timing,
    { roofs = this.roofs, ...more }: Partial<Row> & { roofs?: RoofSet } = {},
  ): Row {
    const { bound, roof, fraction } = judge(work, timing.medianUs, shape.dtype, roofs)
    return { ...this.labels(name, shape), ...timing, ...work, bound, roof, fraction, ...more }
  }

  labels(
    name: string,
    { name: shape, dtype }: TypedShape,
  ): Pick<Row, 'name' | 'backend' | 'shape' | 'dtype'> {
    return { name, backend: this.device.name, shape, dtype }
  }

  private add(row: Row): void {
    this.report.results.push(row)
    this.progress.print(rowLine(row))
  }

  private addBreakdown(breakdown: Breakdown): void {
    this.report.breakdowns.push(breakdown)
    this.progress.print(breakdownLines(breakdown))
  }

  /** Measures the read bandwidth unless that was done less than `maxAgeMs` ago. */
  private async refreshReadRoof(when: string, maxAgeMs = FRESH_MS): Promise<void> {
    if (performance.now() < this.measuredAt + maxAgeMs) return
    const { threads, options } = this
    const { quick } = options
    const read = await measureReadRoof(this.device, {
      threads,
      isa: this.report.machine.isa,
      seconds: quick ? 0.2 : 0.6,
      quick,
    })
    this.report.readDrift.push({ when, bytesPerSecond: read.median })
    this.roofs = { ...this.roofs, read }
    this.measuredAt = performance.now()
  }

  finish(): Promise<void> {
    return this.lab.dispose()
  }
}

/** For what takes as long as the bandwidth holds still: half way from one measurement to the next. */
function between(before: RoofSet, after: RoofSet): RoofSet {
  return { ...after, read: { ...after.read, median: (before.read.median + after.read.median) / 2 } }
}

async function writePage(file: string, report: Report): Promise<void> {
  const { htmlPage } = await import('./html.ts') // vega takes half a second to load
  write(file, await htmlPage(report))
}

function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}
