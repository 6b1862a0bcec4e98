// What a MoE layer costs from Node: the time of its kernels, and what run() to its promise adds to that. Usage:
// tsx --conditions=openmoe-source bench/gpu/node_layer.ts DEVICE SHAPE FILE.json
import { writeFileSync } from 'node:fs'
import { openDevice } from '#lib/device'
import { moe } from '#lib/layers/moe'
import { type HostTensor, tensor, type Tensor } from '#lib/tensor'
import { randomMatrix } from '../ops/random_matrix.ts'
import { randomHost } from '../ops/random.ts'

const SHAPES = { tiny: [128, 64, 8], base: [768, 2048, 16], '8b': [2048, 8192, 32] } as const
const TOKENS = [1, 16, 256]

const [deviceName = 'cuda', shapeName = '8b', file] = process.argv.slice(2)
const [hiddenSize, intermediateSize, numExperts] = SHAPES[shapeName as keyof typeof SHAPES]
const isEmulated = deviceName.startsWith('cuda-emulator')
const [warmUps, samples] = isEmulated ? [0, 2] : [50, 300]

await using device = await openDevice(deviceName)
const weights = {
  gateUp: await randomMatrix(device, 'bf16', {
    count: numExperts,
    outFeatures: 3 * intermediateSize,
    inFeatures: hiddenSize,
    layout: 'gate_up',
  }),
  down: await randomMatrix(device, 'bf16', {
    count: numExperts,
    outFeatures: hiddenSize,
    inFeatures: intermediateSize,
    layout: 'rows',
  }),
}
const router = await upload('f32', randomHost('f32', [numExperts, hiddenSize]))
const results = []
for (const tokens of TOKENS) {
  const groups = {
    groupOffsets: await upload('i32', tensor(Int32Array.of(0, tokens), [2])),
    capacity: await upload('i32', tensor(Int32Array.of(-1), [1])),
  }
  const program = device.compile((p) => {
    const x = p.input('x', 'f32', [tokens, hiddenSize])
    return moe(p, { x }, { ...weights, router }, { topK: 2, numExperts }, groups, 'moe')
  })
  const inputs = { x: randomHost('f32', [tokens, hiddenSize]).data }
  const wall: number[] = []
  const kernels: number[] = []
  for (let i = 0; i < warmUps + samples; i++) {
    const start = performance.now()
    await program.run(inputs)
    const us = (performance.now() - start) * 1000
    const { profile = [] } = await program.run(inputs, { profile: true }) // its events would cost the other time
    if (i < warmUps) continue
    wall.push(us)
    kernels.push(profile.reduce((sum, { microseconds }) => sum + microseconds, 0))
  }
  program.dispose()
  const [p10Us, medianUs, p90Us] = [0.1, 0.5, 0.9].map((q) => quantile(wall, q))
  results.push({
    name: 'node.moe_layer',
    backend: device.name,
    shape: shapeName,
    dtype: 'bf16',
    tokens,
    samples,
  })
  Object.assign(results.at(-1)!, { medianUs, p10Us, p90Us, kernelsUs: quantile(kernels, 0.5) })
  console.log(
    `node.moe_layer T=${tokens}: run() to its promise ${medianUs!.toFixed(0)} us (p10 ${p10Us!.toFixed(0)}, ` +
      `p90 ${p90Us!.toFixed(0)}), kernels ${quantile(kernels, 0.5).toFixed(0)} us`,
  )
}
if (file) writeFileSync(file, `${JSON.stringify({ schema: 1, emulated: isEmulated, results }, null, 2)}\n`)

async function upload(dtype: 'f32' | 'i32', from: HostTensor): Promise<Tensor> {
  const to = device.empty(dtype, from.shape)
  await device.write(to, from.data)
  return to
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.round(q * (sorted.length - 1))]!
}
