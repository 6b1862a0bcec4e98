// Runs the tests of an op on every backend this machine has, and says which it skips and why.
import { afterAll, beforeAll, describe, it } from 'vitest'
import { type Device, devices, type HostResults, openDevice, type Results } from '../../lib/device.ts'
import type { Program } from '../../lib/program.ts'
import { tensor, type HostTensor, type Matrix, type MatrixDtype } from '../../lib/tensor.ts'

const CPU_ISAS = ['portable', 'avx2', 'avx512', 'avx512_bf16'] as const

export interface OpTest {
  /** e.g. 'cpu avx2' */
  backend: string
  /** True where bf16 weights are multiplied with activations rounded to bf16. */
  roundsActivations: boolean
  run<R extends Results>(body: (p: Program) => R): Promise<HostResults<R>>
  /** Packs weights on the backend's device. */
  matrix(from: HostTensor, dtype?: MatrixDtype): Promise<Matrix>
  device(): Device
}

export function describeOp(op: string, body: (t: OpTest) => void): void {
  const present = devices()[0]?.isas ?? []
  for (const isa of CPU_ISAS) {
    const backend = `cpu ${isa}`
    if (!present.includes(isa)) {
      describe(`${op} on ${backend}`, () => it.skip(`skipped: this CPU has no ${isa}`, () => undefined))
      continue
    }
    describe(`${op} on ${backend}`, () => {
      let device: Device
      beforeAll(async () => {
        device = await openDevice('cpu', { isa, threads: 2 })
      })
      afterAll(() => device.dispose())
      body({
        backend,
        roundsActivations: isa === 'avx512_bf16',
        run: (record) => device.run(record),
        matrix: (from, dtype) => device.matrix(from, dtype),
        device: () => device,
      })
    })
  }
}

/** A counter-based generator: the same numbers on every machine and in every order of tests. */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32
  }
}

/** f32 numbers of roughly normal distribution, mean 0. */
export function randomTensor(seed: number, shape: readonly number[], scale = 1): HostTensor {
  const next = random(seed)
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1))
  for (let i = 0; i < data.length; i++) data[i] = scale * (next() + next() + next() + next() - 2) * 1.732
  return tensor(data, shape)
}

/** Normalised mean squared error, sum (a-b)² / sum b²; Infinity where NaN or infinity differ in place. */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0
  let power = 0
  if (actual.length !== expected.length) return Infinity
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] as number
    const b = expected[i] as number
    if (Number.isFinite(a) !== Number.isFinite(b)) return Infinity
    if (!Number.isFinite(b)) continue
    error += (a - b) ** 2
    power += b ** 2
  }
  return power === 0 ? (error === 0 ? 0 : Infinity) : error / power
}

export const i32 = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor =>
  tensor(Int32Array.from(values), shape)
export const f32 = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor =>
  tensor(Float32Array.from(values), shape)
