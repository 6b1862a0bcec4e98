// What the tests of ops share: golden tensors, and the bounds they are held to.
import { join } from 'node:path'
import { expect } from 'vitest'
import { readSafetensors } from '../../lib/checkpoint/safetensors.ts'
import type { Device, Results } from '../../lib/device.ts'
import type { Program } from '../../lib/program.ts'
import {
  type HostTensor,
  type Matrix,
  type MatrixDtype,
  numElements,
  tensor,
  type TypedArray,
} from '../../lib/tensor.ts'
import { type Backend, openOther } from '../ops/describe_op.ts'
import { unpackPanels } from '../reference/panels.ts'
import { throughBf16 } from './bf16.ts'
import { goldenJson } from './golden.ts'

/** f32 kernels against an f64 twin: rounding alone stays far below, one wrong element of a thousand far above. */
export const F32_NMSE = 2e-12

/** Results rounded once to bf16, as those of a GPU's panels are: numbers lie 2^-7 of their power of two apart, the error
 * is uniform within half of that. */
export const BF16_NMSE = 2 ** -14 / 12

/** `get('chunk.q')` of tests/golden/ops/<op>.safetensors, optionally in another shape of as many elements. */
export async function opFixture(op: string) {
  const tensors = await readSafetensors(join(import.meta.dirname, `../golden/ops/${op}.safetensors`))
  return (name: string, shape?: readonly number[]): HostTensor => {
    const found = tensors.get(name)
    if (!found) throw new Error(`${op}.safetensors has no ${name}`)
    return tensor(found.data, shape ?? found.shape)
  }
}

/** The tolerances of tests/golden/ops/ops.json. */
export const opsJson = <T>(op: string): T => goldenJson<Record<string, T>>('ops/ops.json')[op]!

/** |actual - expected| <= atol + rtol |expected| everywhere. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { atol, rtol = 0 }: { atol: number; rtol?: number },
): void {
  expect(actual.length).toBe(expected.length)
  for (let i = 0; i < expected.length; i++) {
    const bound = atol + rtol * Math.abs(expected[i]!)
    if (!(Math.abs(actual[i]! - expected[i]!) <= bound)) {
      throw new Error(`element ${i} is ${actual[i]}, expected ${expected[i]} within ${bound}`)
    }
  }
}

/** Equal bits: tells -0 from 0 and one NaN from another. */
export function expectSameBits(actual: TypedArray, expected: TypedArray): void {
  const bits = (a: TypedArray) => Buffer.from(a.buffer, a.byteOffset, a.byteLength)
  expect(actual.length).toBe(expected.length)
  expect(bits(actual).equals(bits(expected))).toBe(true)
}

/** What kernels multiply by: `weight` [..., rows, cols] as it reads once it was packed. */
export async function storedWeights(
  device: Device,
  packed: Matrix,
  weight: HostTensor,
): Promise<ArrayLike<number>> {
  const { dtype, count, bytes } = packed
  if (dtype === 'f32') return weight.data
  if (dtype === 'bf16') return throughBf16(weight.data)
  const panels = await device.readMatrix(packed, 0, bytes)
  const each = bytes / count
  const weights = Array.from({ length: count }, (_, i) =>
    unpackPanels(panels.subarray(i * each, (i + 1) * each), packed),
  )
  return weights.length === 1 ? weights[0]! : Float64Array.from(weights.flatMap((w) => [...w]))
}

/**
 * Rows x [rows, width] as they enter products: the avx512_bf16 kernels round them to bf16 beside bf16 weights, and all
 * but the portable ones to 8-bit integers beside int8 and int4, with a scale for every 64 or 256 of a row.
 */
export function roundedRows(x: HostTensor, dtype: MatrixDtype, backend: Backend): ArrayLike<number> {
  const { isa } = backend.options
  const onGpu = backend.device !== 'cpu'
  if (onGpu || (dtype === 'bf16' && isa === 'avx512_bf16')) return throughBf16(x.data)
  if (dtype === 'f32' || dtype === 'bf16' || isa === 'portable') return x.data
  const [, width = 0] = x.shape
  const { fround, abs } = Math
  const block = dtype === 'int8' ? 64 : 256
  const out = new Float64Array(x.data.length)
  for (let start = 0; start < out.length; start += width) {
    for (let k = start; k < start + width; k += block) {
      const numbers = Float32Array.from(x.data.subarray(k, Math.min(k + block, start + width)))
      const largest = numbers.reduce((most, value) => Math.max(most, abs(value)), 0)
      const factor = fround(127 / largest)
      numbers.forEach((value, i) => {
        out[k + i] = largest > 0 ? roundHalfEven(fround(value * factor)) * fround(largest / 127) : 0
      })
    }
  }
  return out
}

function roundHalfEven(x: number): number {
  const rounded = Math.round(x)
  return rounded - x === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}

/** Rows [begin, end) of a tensor. */
export function rows(from: HostTensor, begin: number, end: number): HostTensor {
  const width = numElements(from.shape.slice(1))
  return tensor(from.data.slice(begin * width, end * width), [end - begin, ...from.shape.slice(1)])
}

/** Runs the same recording on a device with another number of threads; on the emulator, with another schedule. */
export async function runWithThreads<R extends Results>(
  backend: Backend,
  threads: number,
  body: (p: Program) => R,
) {
  const device = await openOther(backend, threads)
  try {
    return await device.run(body)
  } finally {
    await device.dispose()
  }
}

export { throughBf16, toBf16 } from './bf16.ts'
