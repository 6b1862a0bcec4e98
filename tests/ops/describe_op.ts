// Runs the tests of an op on every backend this machine has, and says which it skips and why.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { gpuReport } from '../../lib/backends.ts'
import {
  type Device,
  type DeviceOptions,
  devices,
  type HostResults,
  openDevice,
  type Results,
} from '../../lib/device.ts'
import type { Program } from '../../lib/program.ts'
import {
  tensor,
  type HostTensor,
  type Matrix,
  MATRIX_DTYPES,
  type MatrixDtype,
  type MatrixLayout,
} from '../../lib/tensor.ts'
import { throughBf16 } from '../support/bf16.ts'

export interface Backend {
  /** e.g. 'cpu avx2', 'cuda-emulator:0' */
  name: string
  device: string
  options: DeviceOptions
  /** Why it cannot be tested here. */
  missing?: string
}

/** Every CPU instruction set, both emulated GPUs (0 runs the Hopper kernels, 1 those of sm_80), and a real one. */
export function backends(): Backend[] {
  const present = devices()[0]?.isas ?? []
  const cpus = (['portable', 'avx2', 'avx512', 'avx512_bf16'] as const).map((isa) => ({
    name: `cpu ${isa}`,
    device: 'cpu',
    options: { isa, threads: 2 },
    missing: present.includes(isa) ? undefined : `this CPU has no ${isa}`,
  }))
  const gpus = (['cuda-emulator:0', 'cuda-emulator:1', 'cuda'] as const).map((device) => ({
    name: device,
    device,
    options: {},
    missing: gpuReport(device === 'cuda' ? 'cuda' : 'cuda-emulator').problem || undefined,
  }))
  return [...cpus, ...gpus]
}

/** A device that differs from the backend's own only in what no result may depend on. */
export function openOther(backend: Backend, threads = 1): Promise<Device> {
  return openDevice(backend.device, { ...backend.options, threads, emulatorSeed: 100 + threads })
}

export interface OpTest {
  backend: Backend
  /** A GPU, emulated or not: panels and weights are bf16, and only ids that record as out of range are refused by name. */
  isGpu: boolean
  /** Every CUDA thread is emulated: tests take small shapes. */
  isEmulated: boolean
  /** True where bf16 weights are multiplied with activations rounded to bf16. */
  roundsActivations: boolean
  /** Dtypes weights may have here. */
  weightDtypes: readonly MatrixDtype[]
  /** What a panel keeps of numbers: all of it, or its bf16 rounding. */
  throughPanel(values: ArrayLike<number>): ArrayLike<number>
  run<R extends Results>(body: (p: Program) => R): Promise<HostResults<R>>
  /** Packs weights on the backend's device. */
  matrix(from: HostTensor, dtype?: MatrixDtype, options?: { layout?: MatrixLayout }): Promise<Matrix>
  device(): Device
  /** The message of a run that meets a wrong index: a GPU only says in which op. */
  refusal(message: RegExp): RegExp
}

export function describeOp(op: string, body: (t: OpTest) => void): void {
  const hasGpuKernel = existsSync(join(import.meta.dirname, `../../native/ops/${op}.cu`))
  for (const backend of backends()) {
    const isGpu = backend.device !== 'cpu'
    if (isGpu && !hasGpuKernel) continue
    if (backend.missing) {
      describe(`${op} on ${backend.name}`, () => it.skip(`skipped: ${backend.missing}`, () => undefined))
      continue
    }
    describe(`${op} on ${backend.name}`, () => {
      let device: Device
      beforeAll(async () => {
        device = await openDevice(backend.device, backend.options)
      })
      afterAll(() => device.dispose())
      body({
        backend,
        isGpu,
        isEmulated: backend.device.startsWith('cuda-emulator'),
        roundsActivations: isGpu || backend.options.isa === 'avx512_bf16',
        weightDtypes: isGpu ? ['bf16'] : MATRIX_DTYPES,
        throughPanel: (values) => (isGpu ? throughBf16(values) : values),
        run: (record) => device.run(record),
        matrix: (from, dtype, options) => device.matrix(from, dtype, options),
        device: () => device,
        refusal: (message) =>
          isGpu ? new RegExp(`^${op}: an expert, row or offset is out of range`) : message,
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
