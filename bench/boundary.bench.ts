// What crossing from JavaScript to the device's thread and back costs: the part of a step that is no kernel.
import { add } from '../lib/ops/add.ts'
import { tensor } from '../lib/tensor.ts'
import type { BenchContext } from './context.ts'
import type { Boundary } from './report.ts'
import { collect } from './sampling.ts'

const OPS = 200

export async function benchBoundary({ device, budget }: BenchContext): Promise<Boundary> {
  const x = tensor(new Float32Array(64), [1, 64])
  const program = device.compile((p) => add(p, x, x))
  const { medianUs, p10Us, p90Us } = await collect(async () => {
    const start = performance.now()
    const { profile = [] } = await program.run({}, { profile: true })
    return (performance.now() - start) * 1000 - (profile[0]?.microseconds ?? 0)
  }, budget)

  program.dispose()

  const recording = await collect(async () => {
    const start = performance.now()
    const recorded = device.compile((p) => {
      let y = p.use(x)
      for (let i = 0; i < OPS; i++) y = add(p, y, x)
      return y
    })
    const us = (performance.now() - start) * 1000
    recorded.dispose()
    return us / OPS
  }, budget)
  return { hop: { medianUs, p10Us, p90Us }, recordUsPerOp: recording.medianUs }
}
