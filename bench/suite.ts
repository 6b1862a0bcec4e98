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
import { RoofWatch } from './roof_watch.ts'
import { judge, RoofMeter, type RoofSet, type Work } from './roofline.ts'
import { type Budget, collect } from './sampling.ts'
import type { TypedShape } from './shapes.ts'
import { countedOf, summarise, type Timing } from './statistics.ts'

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
  /** Of all threads, at the start. */
  roofs!: RoofSet
  private meter!: RoofMeter

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
      this.meter = new RoofMeter(this.device, { threads: count, isa: this.report.machine.isa, quick })
      this.roofs = await this.meter.measure(seconds)
      this.report.roofs.push(this.roofs)
      this.progress.print(roofLines(this.roofs))
      if (count === this.threads || this.roofs.threads === 0) break // 0: a device whose threads nobody chooses
      this.meter.close()
    }
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
    const watch = new RoofWatch(this.meter, shape.dtype, this.roofs)
    const sampler = await benchCase.prepare()
    try {
      const samples = await collect(
        () => sampler.sample(),
        this.budgetOf(benchCase),
        () => watch.look(),
      )
      await watch.measure()
      this.report.readDrift.push({ when: `${name} ${shape.dtype}`, bytesPerSecond: watch.medianRead })
      const timing = summarise(samples)
      const work = benchCase.work()
      const rate = tokens === undefined ? {} : { tokensPerSecond: (tokens * 1e6) / timing.medianUs }
      const judged = watch.judge(work, countedOf(samples))
      this.add({ ...this.labels(name, shape), ...timing, ...work, ...judged, ...rate })
      if (breakDown) this.addBreakdown(await breakDown.call(benchCase, watch))
    } finally {
      sampler.dispose()
    }
  }

  /** Steps of a whole model take longer, and vary more with what they are routed to. */
  private budgetOf({ tokens }: BenchCase): Budget {
    if (tokens === undefined) return this.budget
    return this.options.quick ? { milliseconds: 200, samples: 5 } : { milliseconds: 2500, samples: 9 }
  }

  /** A row held against the roofs at the start. */
  row(name: string, shape: TypedShape, work: Work, timing: Timing, more: Partial<Row>): Row {
    const { bound, roof, fraction } = judge(work, timing.medianUs, shape.dtype, this.roofs)
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

  async finish(): Promise<void> {
    this.meter.close()
    await this.lab.dispose()
  }
}

async function writePage(file: string, report: Report): Promise<void> {
  const { htmlPage } = await import('./html.ts') // vega takes half a second to load
  write(file, await htmlPage(report))
}

function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}
