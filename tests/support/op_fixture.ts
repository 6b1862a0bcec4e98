// What the tests of ops share: golden tensors, and the bounds they are held to.
import { join } from 'node:path'
import { expect } from 'vitest'
import { readSafetensors } from '../../lib/checkpoint/safetensors.ts'
import type { Results } from '../../lib/device.ts'
import type { Program } from '../../lib/program.ts'
import { type HostTensor, numElements, tensor, type TypedArray } from '../../lib/tensor.ts'
import { type Backend, openOther } from '../ops/describe_op.ts'
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
