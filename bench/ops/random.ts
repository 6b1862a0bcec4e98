// Data for benches: cheap, and never zero, denormal or constant.
import type { Device } from '#lib/device'
import { floatDtype } from '#lib/model/weights'
import type { BatchLayout, KvPages } from '#lib/ops/kv_append'
import type { DType, HostTensor, Tensor } from '#lib/tensor'
import { newTypedArray, numElements } from '#lib/tensor'
import type { TypedShape } from '../shapes.ts'

const DISTINCT = 1 << 20 // numbers made at random; larger tensors repeat them, which no kernel notices

/** f32 in [-0.5, 0.5), or bf16 bits of magnitude 2^-8 .. 0.5. */
export function randomHost(dtype: 'f32' | 'bf16', shape: readonly number[]): HostTensor {
  const data = newTypedArray(dtype, numElements(shape))
  const distinct = Math.min(DISTINCT, data.length)
  for (let i = 0; i < distinct; i++) {
    data[i] =
      dtype === 'f32'
        ? Math.random() - 0.5
        : 0x3b80 + ((Math.random() * 0x380) | (Math.random() < 0.5 ? 0x8000 : 0))
  }
  for (let filled = distinct; filled < data.length; filled *= 2) data.copyWithin(filled, 0, filled)
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
  { numKvHeads, headDim, dtype }: TypedShape,
  { numSeqs, rows, length }: { numSeqs: number; rows: number; length: number },
): Promise<{ cache: KvPages; batch: BatchLayout }> {
  const blocks = Math.ceil(length / 32)
  const table = Array.from(
    { length: numSeqs * blocks },
    (_, i) => (i % blocks) * numSeqs + Math.floor(i / blocks),
  )
  const kv = floatDtype(dtype)
  return {
    cache: {
      kPages: await randomOn(device, kv, [numSeqs * blocks, numKvHeads, headDim, 32]),
      vPages: await randomOn(device, kv, [numSeqs * blocks, numKvHeads, 32, headDim]),
    },
    batch: {
      blockTable: i32(table, [numSeqs, blocks]),
      seqOffsets: i32(Array.from({ length: numSeqs + 1 }, (_, s) => s * rows)),
      seqPositions: i32(Array.from({ length: numSeqs }, () => length - rows)),
    },
  }
}

// Sequences in one run at most, as so many positions: beyond, the pages alone are gigabytes.
const MAX_POSITIONS = 16 * 2048

export interface AttentionCase {
  name: string
  numSeqs: number
  rows: number
  length: number
}

/** Decode steps at a long context, and prompts. */
export function attentionCases({ batches, prompts, attentionContext: length }: TypedShape): AttentionCase[] {
  return [
    ...batches
      .filter((b) => b === 1 || b * length <= MAX_POSITIONS)
      .map((b) => ({ name: `decode b=${b} at ${length}`, numSeqs: b, rows: 1, length })),
    ...prompts.map((t) => ({ name: `prefill t=${t}`, numSeqs: 1, rows: t, length: t })),
  ]
}
