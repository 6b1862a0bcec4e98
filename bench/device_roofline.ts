// Roofs of a device that has no measuring loops of its own: the best that its simplest ops reach. Not a bound, as the
// CPU's roofs are, but what every other op can be held against.
import type { Device } from '#lib/device'
import { groupedGemm } from '#lib/ops/grouped_gemm'
import { moePermute } from '#lib/ops/moe_permute'
import type { Program } from '#lib/program'
import { i32, randomOn } from './ops/random.ts'
import { randomMatrix } from './ops/random_matrix.ts'
import { identityRoute } from './ops/random_route.ts'
import type { Roof, RoofSet } from './roofline.ts'
import { quantile } from './statistics.ts'

// 256 MiB, beyond the caches of any device, and a product that fills it. The small ones only show that it runs.
const SIZES = { full: { stream: [1 << 16, 1024], gemm: 4096 }, quick: { stream: [64, 1024], gemm: 128 } }

export async function measureDeviceRoofs(device: Device, seconds: number, quick: boolean): Promise<RoofSet> {
  const { stream, gemm: side } = quick ? SIZES.quick : SIZES.full
  const rows = await randomOn(device, 'f32', stream)
  const copy = await rate(device, seconds, 'the op moe_permute', (p) => {
    const copied = moePermute(p, rows, identityRoute(rows.shape[0]!))
    return rows.bytes + copied.bytes
  })
  device.free(rows)
  const x = await randomOn(device, 'f32', [side, side])
  const gemm = async (dtype: 'f32' | 'bf16'): Promise<Roof> => {
    const weight = await randomMatrix(device, dtype, { count: 1, outFeatures: side, inFeatures: side })
    const roof = await rate(device, seconds, `the op grouped_gemm, ${dtype}`, (p) => {
      groupedGemm(p, x, weight, i32([0, side]))
      return 2 * side ** 3
    })
    device.free(weight)
    return roof
  }
  const bf16 = await gemm('bf16')
  const f32 = await gemm('f32').catch(() => bf16) // a GPU may hold weights in bf16 only
  device.free(x)
  return { threads: 0, read: copy, copy, f32, bf16, int8: bf16 }
}

/** `record` returns how many bytes or FLOPs it recorded. */
async function rate(
  device: Device,
  seconds: number,
  instructions: string,
  record: (p: Program) => number,
): Promise<Roof> {
  let amount = 0
  const program = device.compile((p) => {
    amount = record(p)
    return []
  })
  const rates: number[] = []
  const end = performance.now() + seconds * 1000
  while (performance.now() < end || rates.length < 5) {
    const { profile = [] } = await program.run({}, { profile: true })
    const us = profile.reduce((sum, { microseconds }) => sum + microseconds, 0)
    rates.push(amount / (us * 1e-6))
  }
  program.dispose()
  rates.sort((a, b) => a - b)
  const [cleanSlices, slices] = [rates.length, rates.length]
  return { median: quantile(rates, 0.5), best: rates.at(-1)!, cleanSlices, slices, instructions }
}
