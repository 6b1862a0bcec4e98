// A cache with its pages dealt out in a shuffled order, for the tests of kv_append and attention.
import type { Device } from '../../lib/device.ts'
import type { BatchLayout, KvPages } from '../../lib/ops/kv_append.ts'
import { type HostTensor, newTypedArray, numElements, tensor } from '../../lib/tensor.ts'

/** Pages full of NaN: whoever reads a slot that was never written shows it. */
export async function newCache(
  device: Device,
  shape: { numPages: number; numKvHeads: number; headDim: number },
  dtype: 'f32' | 'bf16' = 'f32',
): Promise<KvPages> {
  const { numPages, numKvHeads, headDim } = shape
  const nan = (dims: readonly number[]): HostTensor => {
    const data = newTypedArray(dtype, numElements(dims)).fill(dtype === 'bf16' ? 0x7fc0 : NaN)
    return { dtype, shape: dims, data }
  }
  return {
    kPages: await device.upload(nan([numPages, numKvHeads, headDim, 32])),
    vPages: await device.upload(nan([numPages, numKvHeads, 32, headDim])),
  }
}

export function freeCache(device: Device, cache: KvPages): void {
  device.free(cache.kPages)
  device.free(cache.vPages)
}

/** Rows of one sequence in a run: how many, from which position, and the pages of the whole sequence. */
export interface Rows {
  count: number
  position: number
  pages: readonly number[]
}

/** Unused entries of the block table hold rubbish, as they may. */
export function layoutOf(sequences: readonly Rows[]): BatchLayout {
  const maxBlocks = Math.max(1, ...sequences.map((s) => s.pages.length))
  const table = sequences.flatMap((s) => Array.from({ length: maxBlocks }, (_, i) => s.pages[i] ?? -99))
  const offsets = [0]
  for (const s of sequences) offsets.push(offsets.at(-1)! + s.count)
  const i32 = (values: readonly number[], shape: readonly number[]) => tensor(Int32Array.from(values), shape)
  return {
    blockTable: i32(table, [sequences.length, maxBlocks]),
    seqOffsets: i32(offsets, [sequences.length + 1]),
    seqPositions: i32(
      sequences.map((s) => s.position),
      [sequences.length],
    ),
  }
}

/** Every page once, in an order that is not the natural one. */
export const shuffledPages = (count: number): number[] =>
  Array.from({ length: count }, (_, i) => i).sort((a, b) => ((a * 7919) % 101) - ((b * 7919) % 101))
