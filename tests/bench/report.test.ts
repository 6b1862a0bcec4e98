import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { runBench } from '../../bench/command.ts'
import { compareWithReport } from '../../bench/compare_report.ts'
import { escape, htmlPage } from '../../bench/html.ts'
import { readReport, type Report, type Row, rowLine } from '../../bench/report.ts'
import { computeRoof, judge, type Roof, type RoofSet } from '../../bench/roofline.ts'

const roof = (median: number): Roof => ({ median, best: median, cleanSlices: 9, slices: 9, instructions: '' })
const ROOFS: RoofSet = {
  threads: 2,
  read: roof(50e9),
  copy: roof(60e9),
  f32: roof(200e9),
  bf16: roof(400e9),
  int8: roof(800e9),
}
const ROW: Row = {
  name: 'linear down t=8',
  backend: 'cpu',
  shape: 'base',
  dtype: 'bf16',
  medianUs: 100,
  p10Us: 95,
  p90Us: 110,
  samples: 9,
  undisturbed: 1,
  bytes: 4e6,
  flops: 1e6,
  bound: 'memory',
  roof: 50e9,
  fraction: 0.8,
}

describe('judge', () => {
  it('takes the roof that needs longer', () => {
    expect(judge({ bytes: 50e3, flops: 1 }, 2, 'f32', ROOFS)).toEqual({
      bound: 'memory',
      roof: 50e9,
      idealUs: 1,
      fraction: 0.5,
    })
    expect(judge({ bytes: 1, flops: 400e3 }, 4, 'bf16', ROOFS)).toMatchObject({
      bound: 'compute',
      fraction: 0.25,
    })
  })

  it('holds narrow weights against the 8-bit peak', () => {
    expect(computeRoof('f32')).toBe('f32')
    expect(computeRoof('bf16')).toBe('bf16')
    expect(computeRoof('int4')).toBe('int8')
  })
})

describe('a report', () => {
  let folder: string
  let report: Report
  let page: string
  const stdout: string[] = []

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'openmoe-bench-test-'))
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => stdout.push(String(text)) > 0)
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true)
    const files = ['--json', join(folder, 'a.json'), '--html', join(folder, 'deep', 'a.html')]
    const sizes = ['--hidden', '64', '--intermediate', '96', '--experts', '4', '--tokens', '1,5']
    await runBench(['swiglu', 'grouped_gemm', 'boundary', '--shape', 'tiny', '--quick', ...sizes, ...files])
    vi.restoreAllMocks()
    report = readReport(join(folder, 'a.json'))
    page = readFileSync(join(folder, 'deep', 'a.html'), 'utf8')
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  const schema = JSON.parse(readFileSync('docs/bench.schema.json', 'utf8')) as object
  const validate = new Ajv2020({ allErrors: true }).compile(schema)

  it('follows docs/bench.schema.json', () => {
    expect(validate(report), JSON.stringify(validate.errors)).toBe(true)
  })

  it('follows it also with a comparison, a breakdown and a failure', () => {
    const comparison = { ratio: 1, interval: { low: 0.9, high: 1.1 }, pairs: 12, verdict: 'within noise' }
    const parts = [{ part: 'moe.linear', records: 3, us: 9, idealUs: 3, fraction: 0.3 }]
    const full = {
      ...report,
      results: [{ ...ROW, comparison, note: 'x', tokensPerSecond: 3 }],
      breakdowns: [{ name: 'model.decode b=1', shape: 'base', dtype: 'bf16', wallUs: 10, parts }],
      failures: ['rope: no'],
    }
    expect(validate(full), JSON.stringify(validate.errors)).toBe(true)
    expect(validate({ ...report, results: [{ ...ROW, bound: 'luck' }] })).toBe(false)
    expect(validate({ ...report, results: [{ ...ROW, medianUs: undefined }] })).toBe(false)
  })

  it('kept under bench/results follows it, too', () => {
    const files = readdirSync('bench/results', { recursive: true, encoding: 'utf8' })
    const reports = files.filter((name) => name.endsWith('.json') && !name.endsWith('peers.json'))
    expect(reports.length).toBeGreaterThan(0)
    for (const name of reports) {
      const kept = JSON.parse(readFileSync(join('bench/results', name), 'utf8')) as object
      if ('schema' in kept && kept.schema === 2)
        expect(validate(kept), `${name} ${JSON.stringify(validate.errors)}`).toBe(true)
    }
  })

  it('has the rows that were asked for, at the sizes that were asked for', () => {
    expect(report.results.map(({ name }) => name)).toEqual([
      'grouped_gemm t=1',
      'grouped_gemm t=5',
      'swiglu t=1',
      'swiglu t=5',
      'boundary.hop',
      'boundary.record',
    ])
    const down = report.results[1]!
    expect(down.shape).toBe('tiny,hidden=64,intermediate=96,experts=4')
    expect(down.flops).toBe(2 * 10 * 96 * 64) // 5 tokens at 2 experts each
    // every expert's weights in bf16, 10 rows in and out
    expect(down.bytes).toBe(4 * 96 * 64 * 2 + 4 * 10 * (96 + 64))
    expect(stdout.join('')).toContain('grouped_gemm t=5')
  })

  it('measures roofs for one thread and for all', () => {
    expect(report.roofs.map(({ threads }) => threads)).toEqual([...new Set([1, report.machine.threads])])
    for (const { read, copy, f32, bf16, int8 } of report.roofs) {
      for (const { median } of [read, copy, f32, bf16, int8]) expect(median).toBeGreaterThan(1e8)
    }
  })

  it('becomes one page that loads nothing', () => {
    expect(page).toContain('<svg')
    expect(page).toContain('grouped_gemm t=5')
    expect(page).not.toMatch(/<script|<link|<img|@import|url\(|\bsrc=/)
    const addresses = page.match(/https?:\/\/[^"'\s<]+/g) ?? []
    expect(addresses.filter((url) => !url.startsWith('http://www.w3.org/'))).toEqual([])
  })

  it('is compared with another row by row', () => {
    const slower = report.results.map((row) => ({ ...row, medianUs: 2 * row.medianUs, p10Us: 2 * row.p10Us }))
    const lines = compareWithReport(
      slower.map((row) => ({ ...row, p90Us: 2 * row.p90Us })),
      report,
    )
    expect(lines[0]).toContain('not paired')
    expect(lines[1]).toMatch(/grouped_gemm t=1 .*\+100\.0%/)
    expect(lines).toHaveLength(1 + report.results.length)
    expect(compareWithReport([{ ...ROW, name: 'other' }], report).at(-1)).toBe('no row is in both')
  })
})

describe('texts', () => {
  it('of names are escaped', async () => {
    expect(escape('<a href="x">&\'')).toBe('&#60;a href=&#34;x&#34;&#62;&#38;&#39;')
    const machine = { cpu: '<script>', isa: '', threads: 2, cpus: 2, memoryBytes: 1, platform: '', node: '' }
    const report: Report = {
      schema: 2,
      machine: { ...machine, commit: '', date: '', load: 0 },
      roofs: [ROOFS],
      readDrift: [],
      results: [{ ...ROW, name: '<b>linear' }],
      breakdowns: [],
      failures: ['<i>'],
    }
    expect(await htmlPage(report)).not.toMatch(/<script|<b>|<i>/)
  })

  it('of a row tell time, spread, bytes, bound and fraction', () => {
    expect(rowLine(ROW)).toMatch(
      /^linear down t=8 +100 us +\[95 us, 110 us\] +4\.00 MB +memory-bound +80% of roof$/,
    )
    expect(rowLine({ ...ROW, bound: 'limit', roof: 50, fraction: 0.5 })).toContain('200% of limit 50 us')
    expect(rowLine({ ...ROW, bound: 'file' })).toContain('80% of read rate')
  })
})
