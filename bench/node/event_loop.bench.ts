// How long a timer of the application waits while a model generates.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { generateUs } from './generate.bench.ts'
import { type NodeBench, timingOf } from './node_bench.ts'
import { withModel } from './synthetic_model.ts'

const RUNS = 5
const LIMIT_US = 2000

export const eventLoopBench: NodeBench = {
  name: 'node.event_loop',
  run: ({ suite, shape }) => {
    if (shape.layers === 0) return Promise.resolve([])
    return withModel(shape, suite.deviceOptions, async (synthetic) => {
      await generateUs(synthetic)
      const p99s: number[] = []
      let worst = 0
      for (let i = 0; i < (suite.options.quick ? 2 : RUNS); i++) {
        const delay = monitorEventLoopDelay({ resolution: 1 })
        delay.enable()
        await generateUs(synthetic)
        delay.disable()
        p99s.push(delay.percentile(99) / 1000)
        worst = Math.max(worst, delay.max / 1000)
      }
      const timing = timingOf(p99s)
      const row = {
        ...suite.labels('node.event_loop', shape),
        ...timing,
        bytes: 0,
        flops: 0,
        bound: 'limit' as const,
        roof: LIMIT_US,
        fraction: LIMIT_US / timing.medianUs,
        note: `p99 of a 1 ms timer, its 1 ms included; longest ${(worst / 1000).toFixed(1)} ms`,
      }
      return [row]
    })
  },
}
