// What crossing from JavaScript to the device's thread and back costs: the part of a step that is no kernel.
import { add } from '#lib/ops/add'
import { tensor } from '#lib/tensor'
import type { NodeBench } from './node/node_bench.ts'
import { type Budget, collect } from './sampling.ts'
import { summarise, type Timing } from './statistics.ts'

const OPS = 200
// Host time of a decode step with a kept program, and a recording of about 256 ops in a millisecond.
const HOP_LIMIT_US = 20
const RECORD_LIMIT_US = 4

export const boundaryBenches: readonly NodeBench[] = [
  {
    name: 'boundary.hop',
    async run({ lab, suite, shape }) {
      const x = tensor(new Float32Array(64), [1, 64])
      const program = lab.device.compile((p) => add(p, x, x))
      const timing = await timed(async () => {
        const start = performance.now()
        const { profile = [] } = await program.run({}, { profile: true })
        return (performance.now() - start) * 1000 - (profile[0]?.microseconds ?? 0)
      }, suite.budget)
      program.dispose()
      return [
        limited(
          suite.labels('boundary.hop', shape),
          timing,
          HOP_LIMIT_US,
          'run() to its promise, less the kernel',
        ),
      ]
    },
  },
  {
    name: 'boundary.record',
    async run({ lab, suite, shape }) {
      const x = tensor(new Float32Array(64), [1, 64])
      const timing = await timed(async () => {
        const start = performance.now()
        const recorded = lab.device.compile((p) => {
          let y = p.use(x)
          for (let i = 0; i < OPS; i++) y = add(p, y, x)
          return y
        })
        const us = (performance.now() - start) * 1000
        recorded.dispose()
        return us / OPS
      }, suite.budget)
      return [
        limited(
          suite.labels('boundary.record', shape),
          timing,
          RECORD_LIMIT_US,
          'recording and checking, per op',
        ),
      ]
    },
  },
]

async function timed(once: () => Promise<number>, budget: Budget): Promise<Timing> {
  return summarise(await collect(once, budget, () => Promise.resolve()))
}

function limited<L, T extends { medianUs: number }>(labels: L, timing: T, limit: number, note: string) {
  const bound = 'limit' as const
  return {
    ...labels,
    ...timing,
    bytes: 0,
    flops: 0,
    bound,
    roof: limit,
    fraction: limit / timing.medianUs,
    note,
  }
}
