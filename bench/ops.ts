// Runs bench/ops/*.bench.ts.
import { readdirSync } from 'node:fs'
import { floatDtype } from '../lib/model/weights.ts'
import type { BenchContext } from './context.ts'
import { rowLine } from './report.ts'
import { makeEvictor, timeRecording } from './sampling.ts'
import { type BenchShape, type OpBench, SHAPES } from './shapes.ts'

const folder = new URL('ops/', import.meta.url)

export function opNames(): string[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.bench.ts'))
    .map((file) => file.replace('.bench.ts', ''))
    .sort()
}

export function shapeNamed(name: string): BenchShape {
  const shape = SHAPES.find((s) => s.name === name)
  if (!shape) throw new Error(`--shape ${name}: expected ${SHAPES.map((s) => s.name).join(', ')}`)
  return shape
}

export async function benchOps(context: BenchContext): Promise<void> {
  const wanted = opNames().filter((op) => context.wantsGroup(op))
  if (wanted.length === 0) return
  const evictor = await makeEvictor(context.device)
  for (const op of wanted) {
    context.progress(`${op} ...`)
    try {
      await benchOp(context, op, evictor)
    } catch (error) {
      // One broken op must not cost the results of the others.
      context.fail(`${op}: ${(error as Error).message}`)
    }
  }
  evictor.dispose()
}

async function benchOp(context: BenchContext, op: string, evictor: Awaited<ReturnType<typeof makeEvictor>>) {
  const { bench } = (await import(new URL(`${op}.bench.ts`, folder).href)) as { bench: OpBench }
  const { device, budget } = context
  for (const dtype of context.dtypes) {
    const cases = await bench.cases(device, { ...shapeNamed(context.shape), dtype: floatDtype(dtype) })
    // Creating the data can take seconds, in which the neighbours change.
    await context.refreshReadRoof(`${op} ${dtype}`)
    for (const { name: label, record, bytes, flops, bound } of cases) {
      const name = `${op} ${label}`
      if (!context.wants(name)) continue
      // Compute-bound cases reuse their weights from the caches anyway; the rest must not find them there.
      const timing = await timeRecording(device, record, bound === 'memory' ? evictor : null, budget)
      const row = context.row(name, dtype, { bytes, flops }, timing)
      context.rows.push(row)
      console.log(rowLine(row))
    }
  }
}
