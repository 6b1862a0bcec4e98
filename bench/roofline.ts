// The roofs of this machine, measured in the run they are compared with (native/support/roofline.cpp).
import { callNative, native } from '../lib/native.ts'
import { devices } from '../lib/device.ts'
import type { WeightDtype } from '../lib/model/weights.ts'

export interface Roof {
  /** bytes/s or FLOP/s: median of the slices in which no thread lost its core */
  median: number
  best: number
  /** Slices in which no thread lost its core. Below 5 the median is of no use, and `median` is the best slice. */
  cleanSlices: number
  slices: number
  instructions: string
}

export type RoofKind = 'read' | 'copy' | 'f32' | 'bf16'

export interface RoofSet {
  threads: number
  /** bytes/s read from memory */
  read: Roof
  /** bytes/s read plus written */
  copy: Roof
  /** FLOP/s */
  f32: Roof
  /** FLOP/s; equal to f32, by definition, where the CPU has no bf16 dot product and bf16 is widened to f32 */
  bf16: Roof
}

interface RooflineModule {
  measureRoof(kind: RoofKind, threads: number, seconds: number): Promise<Roof>
}

export function measureRoof(kind: RoofKind, threads: number, seconds: number): Promise<Roof> {
  return callNative(() => (native as unknown as RooflineModule).measureRoof(kind, threads, seconds))
}

export async function measureRoofs(threads: number, seconds: number): Promise<RoofSet> {
  const read = await measureRoof('read', threads, seconds)
  const copy = await measureRoof('copy', threads, seconds / 2)
  const f32 = await measureRoof('f32', threads, seconds / 2)
  const hasBf16 = devices()[0]?.isas.includes('avx512_bf16')
  const bf16 = hasBf16
    ? await measureRoof('bf16', threads, seconds / 2)
    : { ...f32, instructions: `${f32.instructions}, bf16 widened to f32` }
  return { threads, read, copy, f32, bf16 }
}

export interface Verdict {
  bound: 'memory' | 'compute'
  /** bytes/s or FLOP/s */
  roof: number
  /** Microseconds at the roof. */
  idealUs: number
  /** Share of the roof that was reached; 1 is all of it. */
  fraction: number
}

/** What should have taken longer, the bytes or the FLOPs, and how close `us` microseconds come to that. */
export function judge(
  work: { bytes: number; flops: number },
  us: number,
  dtype: WeightDtype,
  roofs: RoofSet,
): Verdict {
  // 16-bit products, of bf16 or of integers, have one peak.
  const computeRoof = dtype === 'f32' ? roofs.f32 : roofs.bf16
  const memoryUs = (work.bytes / roofs.read.median) * 1e6
  const computeUs = (work.flops / computeRoof.median) * 1e6
  const memory = memoryUs >= computeUs
  const idealUs = Math.max(memoryUs, computeUs)
  return {
    bound: memory ? 'memory' : 'compute',
    roof: memory ? roofs.read.median : computeRoof.median,
    idealUs,
    fraction: idealUs / us,
  }
}
