// npm run bench -- [filter...] [--shape base] [--json FILE]: docs/benchmarks.md says how to read the output.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { type DeviceOptions, devices, openDevice } from '../lib/device.ts'
import { benchBoundary } from './boundary.bench.ts'
import { BenchContext, type ShapeName, type WeightDtype } from './context.ts'
import { WEIGHT_DTYPES } from '../lib/model/weights.ts'
import { describeMachine } from './machine.ts'
import { benchModel, modelCases } from './model/model.bench.ts'
import { benchOps, opNames, shapeNamed } from './ops.ts'
import { type Report, roofLines, units } from './report.ts'
import { measureRoofs } from './roofline.ts'

const USAGE = `npm run bench -- [filter...] [options]
  filter          parts of names: an op, 'model', 'model.decode', 'boundary', 'roofs'; default: everything
  --shape NAME    tiny, base (default) or 8b
  --dtype LIST    of the weights, any of f32,bf16,int8,int4; default: the shape's
  --threads N     default: the physical cores
  --isa NAME      portable, avx2, avx512 or avx512_bf16; default: the best
  --json FILE     writes the report
  --quick         few samples: to see that it runs
  --list          names only`

const { values, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: {
    shape: { type: 'string', default: 'base' },
    dtype: { type: 'string' },
    threads: { type: 'string' },
    isa: { type: 'string' },
    json: { type: 'string' },
    quick: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

if (values.help) console.log(USAGE)
else if (values.list) console.log(['roofs', 'boundary', ...opNames(), ...modelCases].join('\n'))
else await main()

async function main(): Promise<void> {
  const shape = shapeNamed(values.shape)
  const threads = Number(values.threads ?? devices()[0]!.defaultThreads)
  const isa = values.isa as DeviceOptions['isa']
  const dtypes = (values.dtype ?? shape.dtype).split(',') as WeightDtype[]
  if (dtypes.some((dtype) => !WEIGHT_DTYPES.includes(dtype)) || !(threads >= 1)) throw new Error(USAGE)
  const names = ['roofs', 'boundary', 'model', ...opNames(), ...modelCases]
  for (const filter of filters) {
    const known = names.some((name) => name.includes(filter) || filter.startsWith(name))
    if (!known) throw new Error(`nothing is named '${filter}'. --list names everything.`)
  }
  const machine = describeMachine(threads, isa)
  process.stderr.write(
    `${machine.cpu}, ${machine.isa}, ${threads} threads, load ${machine.load.toFixed(1)}\n`,
  )

  const seconds = values.quick ? 0.3 : 1.5
  const all = await measureRoofs(threads, seconds)
  const roofs = threads === 1 ? [all] : [await measureRoofs(1, seconds), all]
  roofs.forEach((set) => console.log(roofLines(set)))

  await using device = await openDevice('cpu', { threads, isa })
  const shapeName = shape.name as ShapeName
  const context = new BenchContext({
    device,
    threads,
    shape: shapeName,
    dtypes,
    quick: values.quick,
    roofs: all,
    filters,
  })
  const report: Report = {
    schema: 1,
    machine,
    roofs,
    readDrift: context.readDrift,
    results: [],
    breakdowns: [],
  }
  if (context.wants('boundary')) {
    report.boundary = await benchBoundary(context)
    const { hop, recordUsPerOp } = report.boundary
    console.log(
      `boundary: run() to promise ${units.time(hop.medianUs)}, recording ${units.time(recordUsPerOp)} an op`,
    )
  }
  await benchOps(context)
  // 17 GB of weights are made only for who asks by name.
  if (context.wantsGroup('model') && (shapeName !== '8b' || filters.length > 0)) {
    for (const dtype of dtypes) await benchModel(context, dtype)
  }
  report.results = context.rows
  report.breakdowns = context.breakdowns
  if (values.json) {
    mkdirSync(dirname(values.json), { recursive: true })
    writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
  }
  if (context.failures.length > 0) {
    process.stderr.write(`failed:\n${context.failures.join('\n')}\n`)
    process.exitCode = 1
  }
}
