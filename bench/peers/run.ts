// npm run bench:peers -- --help: the same work here and in other runtimes, in pairs, as ratios.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { Command } from 'commander'
import { reportError } from '#lib/cli/output'
import { devices, openDevice } from '#lib/device'
import type { WeightDtype } from '#lib/model/weights'
import { Lab } from '../cases.ts'
import { describeMachine, type Machine } from '../machine.ts'
import { modelGroup } from '../model/model.bench.ts'
import { moeLayerGroup } from '../model/moe_layer.bench.ts'
import { generateUs } from '../node/generate.bench.ts'
import { measurePairs } from '../node/node_bench.ts'
import { withModel } from '../node/synthetic_model.ts'
import { units } from '../report.ts'
import { RoofMeter } from '../roofline.ts'
import { type BenchShape, SHAPES, type TypedShape } from '../shapes.ts'
import { type Comparison, median, type Timing } from '../statistics.ts'
import { type PeerPair, peerPairs, type PeerSetup, versionsOf } from './peers.ts'

export interface PeerRow {
  peer: string
  work: string
  shape: string
  theirWeights: string
  ourWeights: WeightDtype
  theirs: Timing
  ours: Timing
  /** Their time over ours: how many times faster we are. The interval is that of the ratio ours / theirs, inverted. */
  speedup: number
  interval: { low: number; high: number }
  verdict: Comparison['verdict']
  /** bytes/s, before and after the pairs. */
  readRoofs: [number, number]
}

interface Options {
  shape: string
  modules?: string
  llamaBench?: string
  python: string
  folder: string
  filter?: string
  pairs: string
  threads?: string
  prepare?: boolean
  json?: string
}

const SAMPLE_US = 500_000 // of ours, like one of theirs

await new Command('bench:peers')
  .description('the same work here and in other runtimes that are installed, in pairs (docs/benchmarks.md)')
  .option('--shape <name>', SHAPES.map(({ name }) => name).join(', '), 'base')
  .option('--modules <dir>', 'node_modules with node-llama-cpp and onnxruntime-node')
  .option('--llama-bench <file>', 'the llama-bench of a build of llama.cpp')
  .option('--python <file>', 'a Python with PyTorch', 'python3')
  .option('--folder <dir>', 'where generated models are kept', '.peers')
  .option('--filter <text>', 'only pairs with this in `peer work weights`')
  .option('--pairs <n>', 'pairs of each', '6')
  .option('--threads <n>', 'compute threads of both')
  .option('--prepare', 'only write the models that are missing')
  .option('--json <file>', 'write the results')
  .action((options: Options) => main(options))
  .parseAsync()
  .catch((error: unknown) => {
    process.exitCode = reportError(error)
  })

async function main(options: Options): Promise<void> {
  const shape = SHAPES.find(({ name }) => name === options.shape) ?? SHAPES[0]!
  const threads = Number(options.threads ?? devices()[0]!.defaultThreads)
  const { modules, llamaBench, python, folder } = options
  const setup: PeerSetup = { shape, threads, folder, modules, llamaBench, python }
  const nameOf = ({ peer, work, theirWeights }: PeerPair): string => `${peer} ${work} ${theirWeights}`
  const wanted = peerPairs(setup, (text) => process.stderr.write(`not compared: ${text}\n`)).filter((pair) =>
    nameOf(pair).includes(options.filter ?? ''),
  )
  const rows: PeerRow[] = []
  const machine = describeMachine(threads, undefined)
  for (const pair of wanted) {
    try {
      const peer = await pair.start()
      try {
        if (options.prepare) continue
        const row = await compare(pair, peer.sample, setup, Number(options.pairs))
        rows.push(row)
        console.log(line(row))
      } finally {
        peer.stop()
      }
    } catch (error) {
      process.stderr.write(`FAILED ${nameOf(pair)}: ${(error as Error).message}\n`)
      process.exitCode = 1
    }
  }
  if (options.json) save(options.json, { schema: 1, machine, versions: versionsOf(setup), rows })
}

async function compare(
  pair: PeerPair,
  theirs: () => Promise<number>,
  { shape, threads }: PeerSetup,
  count: number,
): Promise<PeerRow> {
  return withOurs(pair, shape, threads, async (ours, readRoof) => {
    const before = await readRoof()
    const { a, b, comparison } = await measurePairs(count, theirs, ours)
    const { ratio, interval, verdict } = comparison
    return {
      peer: pair.peer,
      work: pair.work,
      shape: shape.name,
      theirWeights: pair.theirWeights,
      ourWeights: pair.ourWeights,
      theirs: a,
      ours: b,
      speedup: 1 / ratio,
      interval: { low: 1 / interval.high, high: 1 / interval.low },
      verdict,
      readRoofs: [before, await readRoof()],
    }
  })
}

/** Runs `body` with a function that takes one sample of our side of a pair. */
async function withOurs<T>(
  { work, ourWeights }: PeerPair,
  shape: BenchShape,
  threads: number,
  body: (ours: () => Promise<number>, readRoof: () => Promise<number>) => Promise<T>,
): Promise<T> {
  const typed: TypedShape = { ...shape, dtype: ourWeights }
  await using device = await openDevice('cpu', { threads })
  const lab = new Lab(device, { threads, quick: false })
  const readRoof = async (): Promise<number> => {
    const meter = new RoofMeter(device, { threads, quick: false })
    const { median } = await meter.read(0.5)
    meter.close()
    return median
  }
  if (work === 'node.generate') {
    return withModel(typed, { device: 'cpu', threads }, (synthetic) =>
      body(() => generateUs(synthetic), readRoof),
    )
  }
  const group = await (work.startsWith('moe_layer') ? moeLayerGroup : modelGroup).open(lab, typed)
  const sampler = await group.cases.find(({ name }) => name === work)!.prepare()
  try {
    const once = await sampler.sample()
    const count = Math.max(1, Math.min(48, Math.round(SAMPLE_US / once)))
    const ours = async (): Promise<number> => {
      const samples: number[] = []
      while (samples.length < count) samples.push(await sampler.sample())
      return median(samples)
    }
    return await body(ours, readRoof)
  } finally {
    sampler.dispose()
    group.close()
    await lab.dispose()
  }
}

function line({
  peer,
  work,
  theirWeights,
  ourWeights,
  theirs,
  ours,
  speedup,
  interval,
  verdict,
}: PeerRow): string {
  return [
    `${peer} ${work}`.padEnd(38),
    `${theirWeights} ${units.time(theirs.medianUs)}`.padStart(16),
    `  ours ${ourWeights} ${units.time(ours.medianUs)}`.padEnd(24),
    `  ${speedup.toFixed(2)}x [${interval.low.toFixed(2)}, ${interval.high.toFixed(2)}]  ${verdict}`,
  ].join('')
}

function save(
  file: string,
  report: { schema: 1; machine: Machine; versions: object; rows: PeerRow[] },
): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
}
