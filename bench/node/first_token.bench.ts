// From `import 'openmoe'` to the first token, in a process of its own each time.
import { execFile } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { modelFolder } from '#lib/cli/model_options'
import { OpenMoeError } from '#lib/errors'
import type { Row } from '../report.ts'
import { readFileUs } from '../roofline.ts'
import { type NodeBench, type NodeBenchContext, timingOf } from './node_bench.ts'
import { withCheckpoint } from './synthetic_model.ts'

const RUNS = 7
const LIMIT_US = 500_000
const READ_SHARE = 0.8 // a load may take the file's read time over this

// argv: the package's entry, a checkpoint, options of loadModel
const PROGRAM = `
const imported = performance.now()
const [entry, folder, options] = process.argv.slice(1)
const { loadModel } = await import(entry)
const model = await loadModel(folder, JSON.parse(options))
await model.generate(Int32Array.from({ length: 16 }, (_, i) => 5 + i), { maxTokens: 1 })
const end = performance.now()
await model.dispose()
console.log(JSON.stringify({ sinceImport: end - imported, sinceStart: end }))`

export const firstTokenBench: NodeBench = {
  name: 'node.first_token',
  run: (context) => {
    const { shape } = context
    if (shape.layers === 0) return Promise.resolve([])
    const bundled = shape.name === 'tiny' ? bundledModel() : undefined
    if (bundled) return measure(context, bundled, join(bundled, 'model.safetensors'))
    return withCheckpoint(shape, (folder, file) => measure(context, folder, file))
  },
}

async function measure(
  { lab, suite, shape }: NodeBenchContext,
  folder: string,
  file: string,
): Promise<Row[]> {
  const entry = import.meta.resolve('openmoe')
  if (!existsSync(fileURLToPath(entry))) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      'dist/ is measured, as users get it. Run: npm run build',
    )
  }
  const read = (): Promise<number> => readFileUs(file, lab.threads, 'fresh')
  await read() // into the page cache, into memory the system may have to find first
  const options = { ...suite.deviceOptions, dtype: shape.dtype, maxSequences: 1 }
  const readTimes: number[] = []
  const sinceImport: number[] = []
  const sinceStart: number[] = []
  for (let i = 0; i < (suite.options.quick ? 2 : RUNS); i++) {
    readTimes.push(await read())
    const args = ['--input-type=module', '-e', PROGRAM, entry, folder, JSON.stringify(options)]
    const { stdout } = await promisify(execFile)(process.execPath, args)
    const times = JSON.parse(stdout) as { sinceImport: number; sinceStart: number }
    sinceImport.push(times.sinceImport * 1000)
    sinceStart.push(times.sinceStart * 1000)
  }
  const timing = timingOf(sinceImport)
  const limit = LIMIT_US + timingOf(readTimes).medianUs / READ_SHARE
  const row = {
    ...suite.labels('node.first_token', shape),
    ...timing,
    bytes: statSync(file).size,
    flops: 0,
    bound: 'limit' as const,
    roof: limit,
    fraction: limit / timing.medianUs,
    note: `since the process started ${(timingOf(sinceStart).medianUs / 1000).toFixed(0)} ms`,
  }
  return [row]
}

/** The model of the repository; an installed package has none. */
function bundledModel(): string | undefined {
  try {
    return modelFolder(undefined)
  } catch {
    return undefined
  }
}
