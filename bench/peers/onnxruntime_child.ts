// One MoE or QMoE node through onnxruntime-node. argv: its node_modules folder, an ONNX file, hidden_size, threads.
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { serveSamples } from './peer_process.ts'

interface OnnxRuntime {
  Tensor: new (type: string, data: Float32Array, shape: number[]) => object
  InferenceSession: {
    create(file: string, options: object): Promise<{ run(feeds: Record<string, object>): Promise<unknown> }>
  }
}

const [modules = '', file = '', hiddenSize = '1', threads = '1'] = process.argv.slice(2)
const runtime = createRequire(`${resolve(modules)}/`)('onnxruntime-node') as OnnxRuntime
const session = await runtime.InferenceSession.create(file, {
  intraOpNumThreads: Number(threads),
  interOpNumThreads: 1,
  executionMode: 'sequential',
})
const width = Number(hiddenSize)

/** Microseconds of the layer for `tokens` rows, the mean of `runs` with other rows each time. */
serveSamples(async ({ tokens, runs }: { tokens: number; runs: number }) => {
  const inputs = Array.from({ length: runs }, () => {
    const data = Float32Array.from({ length: tokens * width }, () => Math.random() - 0.5)
    return new runtime.Tensor('float32', data, [tokens, width])
  })
  const start = performance.now()
  for (const x of inputs) await session.run({ x })
  return ((performance.now() - start) * 1000) / runs
})
