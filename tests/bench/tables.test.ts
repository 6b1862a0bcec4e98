import { describe, expect, it } from 'vitest'
import type { Report, Row } from '../../bench/report.ts'
import type { Roof } from '../../bench/roofline.ts'
import {
  byMachine,
  conditions,
  type PeerReport,
  peersTable,
  peerVersions,
  replaceBetween,
  resultsTable,
  summaryTable,
} from '../../bench/tables.ts'

const roof = (median: number): Roof => ({ median, best: median, cleanSlices: 9, slices: 9, instructions: '' })
const row = (name: string, more: Partial<Row> = {}): Row => ({
  name,
  backend: 'cpu',
  shape: 'base',
  dtype: 'bf16',
  medianUs: 20_000,
  p10Us: 19_000,
  p90Us: 23_000,
  samples: 9,
  undisturbed: 1,
  bytes: 6e8,
  flops: 6e8,
  bound: 'memory',
  roof: 40e9,
  fraction: 0.75,
  ...more,
})
const report = (results: Row[]): Report => ({
  schema: 2,
  machine: {
    cpu: 'A CPU',
    isa: 'avx2',
    threads: 2,
    cpus: 2,
    memoryBytes: 1,
    platform: 'linux-x64',
    node: 'v20',
    commit: 'abc',
    date: '2026-11-25T10:00:00Z',
    load: 0,
  },
  roofs: [
    { threads: 2, read: roof(40e9), copy: roof(50e9), f32: roof(1e11), bf16: roof(2e11), int8: roof(4e11) },
  ],
  readDrift: [],
  results,
  breakdowns: [],
  failures: [],
})

describe('replaceBetween', () => {
  const text = 'a\n<!-- results: by npm run -->\nold\n<!-- results: end -->\nb\n'

  it('keeps the marks and what is around them, and can be done again', () => {
    const once = replaceBetween(text, 'results', 'new')
    expect(once).toBe('a\n<!-- results: by npm run -->\n\nnew\n\n<!-- results: end -->\nb\n')
    expect(replaceBetween(once, 'results', 'new')).toBe(once)
  })

  it('says so when there are no marks', () => {
    expect(() => replaceBetween(text, 'peers', 'new')).toThrow(/no marks <!-- peers -->/)
  })
})

describe('tables', () => {
  const rows = [
    row('model.decode b=1', { tokensPerSecond: 50 }),
    row('linear down t=8'),
    row('node.event_loop', { bound: 'limit', roof: 2000, medianUs: 1500, note: 'idle 1.10 ms' }),
  ]

  it('show every row with what it is held against', () => {
    const lines = resultsTable(report(rows)).split('\n')
    expect(lines).toHaveLength(5)
    expect(lines[2]).toMatch(
      /^\| model\.decode b=1 +\| base bf16 \| 20\.0 ms \| .* 50\.0 \| 75% of 40\.0 GB\/s +\|$/,
    )
    expect(lines[4]).toContain('limit 2000 us; idle 1.10 ms')
  })

  it('show in the README what readers ask for first', () => {
    const text = summaryTable([report(rows)])
    expect(text).toContain('decode, batch 1')
    expect(text).toContain('event-loop delay while generating, p99')
    expect(text).not.toContain('linear')
  })

  it('have one line in the README for what was measured several times', () => {
    const slow = row('model.decode b=8', { tokensPerSecond: 400, medianUs: 20_000, fraction: 0.5 })
    const fast = row('model.decode b=8', { tokensPerSecond: 500, medianUs: 16_000, fraction: 0.6 })
    const lines = summaryTable([report([fast]), report([slow, ...rows])]).split('\n')
    expect(lines.slice(2, 4)).toEqual([
      expect.stringMatching(
        /^\| decode, batch 1 +\| base, bf16 +\| +50\.0 tok\/s \| 75% of 40\.0 GB\/s +\|$/,
      ),
      expect.stringMatching(
        /^\| decode, batch 8 +\| base, bf16 +\| 400 to 500 tok\/s \| 50% of 40\.0 GB\/s; 60% of 40\.0 GB\/s \|$/,
      ),
    ])
    expect(lines).toHaveLength(5)
  })

  it('say on what and when it was measured', () => {
    expect(conditions(report([]))).toMatch(
      /^A CPU, 2 CPUs, 2 threads.*commit abc, 2026-11-25\..*read 40\.0 GB\/s/,
    )
  })

  it('keep machines apart, each under its name', () => {
    const own = report([])
    const other: Report = { ...own, machine: { ...own.machine, isa: 'avx512' } }
    const count = (reports: readonly Report[]): string => `${reports.length} reports`
    expect(byMachine([own, own], count)).toBe('2 reports')
    expect(byMachine([own, other, own], count)).toBe(
      '**A CPU, 2 CPUs, avx2**\n\n2 reports\n\n**A CPU, 2 CPUs, avx512**\n\n1 reports',
    )
  })

  it('show peers as ratios with their interval', () => {
    const peers: PeerReport = {
      machine: { cpu: 'A CPU', cpus: 2, isa: 'avx2' },
      versions: { 'llama.cpp': '7 (abc)', PyTorch: '1.2' },
      rows: [
        {
          peer: 'llama.cpp',
          work: 'model.decode b=1',
          shape: 'base',
          theirWeights: 'BF16',
          ourWeights: 'bf16',
          theirs: { medianUs: 30_000 },
          ours: { medianUs: 20_000 },
          speedup: 1.5,
          interval: { low: 1.4, high: 1.6 },
          verdict: 'faster',
        },
      ],
    }
    expect(peersTable([peers])).toContain('1.50 x [1.40, 1.60]')
    expect(peerVersions([peers, peers])).toBe('Versions: llama.cpp 7 (abc).') // PyTorch has no row
  })
})
