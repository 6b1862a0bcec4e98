// How late a timer of the application fires while a model generates, and how late without one.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateUs } from './generate.bench.ts'
import { type NodeBench, timingOf } from './node_bench.ts'
import { withModel } from './synthetic_model.ts'

const RUNS = 5
const IDLE_MS = 500
const LIMIT_US = 2000

export const eventLoopBench: NodeBench = {
  name: 'node.event_loop',
  run: ({ suite, shape }) => {
    if (shape.layers === 0) return Promise.resolve([])
    return withModel(shape, suite.deviceOptions, async (synthetic) => {
      await generateUs(synthetic)
      const idle: Delay[] = []
      const generating: Delay[] = []
      for (let i = 0; i < (suite.options.quick ? 2 : RUNS); i++) {
        idle.push(await delayDuring(() => sleep(IDLE_MS)))
        generating.push(await delayDuring(() => generateUs(synthetic)))
      }
      const [alone, timing] = [idle, generating].map((runs) => timingOf(runs.map(({ p99 }) => p99)))
      const longest = Math.max(...generating.map(({ max }) => max))
      const row = {
        ...suite.labels('node.event_loop', shape),
        ...timing!,
        bytes: 0,
        flops: 0,
        bound: 'limit' as const,
        roof: LIMIT_US,
        fraction: LIMIT_US / timing!.medianUs,
        note: `idle ${ms(alone!.medianUs)} ms; longest ${ms(longest)} ms`,
      }
      return [row]
    })
  },
}

/** Microseconds between two firings of a 1 ms timer: what monitorEventLoopDelay calls the delay. */
interface Delay {
  p99: number
  max: number
}

async function delayDuring(body: () => Promise<unknown>): Promise<Delay> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  await body()
  delay.disable()
  return { p99: delay.percentile(99) / 1000, max: delay.max / 1000 }
}

const ms = (us: number): string => (us / 1000).toFixed(2)
