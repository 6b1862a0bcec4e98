// Data for benches: cheap, and never zero, denormal or constant.
import type { DType, HostTensor, Tensor } from '../../lib/tensor.ts'
import { newTypedArray, numElements } from '../../lib/tensor.ts'
import type { Device } from '../../lib/device.ts'
import type { BatchLayout, KvPages } from '../../lib/ops/kv_append.ts'
import type { BenchShape } from '../shapes.ts'

/** f32 in [-0.5, 0.5), or bf16 bits of magnitude 2^-8 .. 0.5. */
export function randomHost(dtype: 'f32' | 'bf16', shape: readonly number[]): HostTensor {
  const data = newTypedArray(dtype, numElements(shape))
  for (let i = 0; i < data.length; i++) {
    data[i] =
      dtype === 'f32'
        ? Math.random() - 0.5
        : 0x3b80 + ((Math.random() * 0x380) | (Math.random() < 0.5 ? 0x8000 : 0))
  }
  return { dtype, shape, data }
}

export const randomOn = (device: Device, dtype: 'f32' | 'bf16', shape: readonly number[]): Promise<Tensor> =>
  device.upload(randomHost(dtype, shape))

export const i32 = (values: readonly number[], shape: readonly number[] = [values.length]): HostTensor => ({
  dtype: 'i32' satisfies DType,
  shape,
  data: Int32Array.from(values),
})

/** `numSeqs` sequences with `rows` new rows each, ending at position `length`, their pages interleaved as in service. */
export async function pagedBatch(
  device: Device,
  { numKvHeads, headDim, dtype }: BenchShape,
  { numSeqs, rows, length }: { numSeqs: number; rows: number; length: number },
): Promise<{ cache: KvPages; batch: BatchLayout }> {
  const blocks = Math.ceil(length / 32)
  const table = Array.from(
    { length: numSeqs * blocks },
    (_, i) => (i % blocks) * numSeqs + Math.floor(i / blocks),
  )
  return {
    cache: {
      kPages: await randomOn(device, dtype, [numSeqs * blocks, numKvHeads, headDim, 32]),
      vPages: await randomOn(device, dtype, [numSeqs * blocks, numKvHeads, 32, headDim]),
    },
    batch: {
      blockTable: i32(table, [numSeqs, blocks]),
      seqOffsets: i32(Array.from({ length: numSeqs + 1 }, (_, s) => s * rows)),
      seqPositions: i32(Array.from({ length: numSeqs }, () => length - rows)),
    },
  }
}

/** A decode step of one sequence and of eight, and a prompt. */
export const TOKENS = [
  { name: 'decode  b=1', tokens: 1 },
  { name: 'decode  b=8', tokens: 8 },
  { name: 'prefill t=512', tokens: 512 },
] as const
