// What is measured: the sizes of real models, and what a bench of an op tells about a case.
import type { Device } from '../lib/device.ts'
import type { Program } from '../lib/program.ts'
import type { Tensor } from '../lib/tensor.ts'

export interface BenchShape {
  name: string
  hiddenSize: number
  intermediateSize: number
  numHeads: number
  numKvHeads: number
  headDim: number
  numExperts: number
  vocabSize: number
  /** of weights and KV pages; activations are f32 */
  dtype: 'f32' | 'bf16'
}

export interface OpCase {
  name: string
  record: (p: Program) => Tensor | Tensor[]
  /** Memory traffic and arithmetic of one run, at their least. */
  bytes: number
  flops: number
  bound: 'memory' | 'compute'
}

/** Every bench/ops/<op>.bench.ts exports one as `bench`. */
export interface OpBench {
  cases(device: Device, shape: BenchShape): Promise<OpCase[]>
}

export const SHAPES: readonly BenchShape[] = [
  {
    name: 'tiny',
    hiddenSize: 256,
    intermediateSize: 256,
    numHeads: 4,
    numKvHeads: 4,
    headDim: 64,
    numExperts: 16,
    vocabSize: 4096,
    dtype: 'f32',
  },
  {
    name: 'base',
    hiddenSize: 768,
    intermediateSize: 2048,
    numHeads: 12,
    numKvHeads: 12,
    headDim: 64,
    numExperts: 16,
    vocabSize: 256384,
    dtype: 'bf16',
  },
  {
    name: '8b',
    hiddenSize: 2048,
    intermediateSize: 8192,
    numHeads: 24,
    numKvHeads: 24,
    headDim: 128,
    numExperts: 32,
    vocabSize: 256384,
    dtype: 'bf16',
  },
]
