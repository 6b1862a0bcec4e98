// The roofs of this machine, measured in the run they are compared with (native/support/roofline.cpp).
import type { Device } from '#lib/device'
import type { WeightDtype } from '#lib/model/weights'
import { callNative, native } from '#lib/native'
import { measureDeviceRoofs } from './device_roofline.ts'
import type { Bound } from './report.ts'

export interface Roof {
  /** bytes/s or FLOP/s: median of the slices in which no thread lost its core */
  median: number
  best: number
  /** Slices in which no thread lost its core. Below 5 the median is of no use, and `median` is the best slice. */
  cleanSlices: number
  slices: number
  instructions: string
}

export type RoofKind = 'read' | 'copy' | 'f32' | 'bf16' | 'int8'

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
  /** Operations/s of 8-bit dot products; int4 weights are expanded to int8, so it is their roof too */
  int8: Roof
}

interface RooflineModule {
  measureRoof(kind: RoofKind, threads: number, seconds: number, isa: string): Promise<Roof>
  readFile(path: string, threads: number, into: ReadInto): Promise<number>
}

/**
 * Where a file is read to: a block of each thread's that stays in cache, which asks no memory to hold it, or memory that
 * is allocated for it, as a device allocates it for weights, and released after the clock has stopped.
 */
export type ReadInto = 'cache' | 'fresh'

/** Microseconds to read a file once. */
export async function readFileUs(file: string, threads: number, into: ReadInto): Promise<number> {
  const seconds = await callNative(() => (native as unknown as RooflineModule).readFile(file, threads, into))
  return seconds * 1e6
}

function measureCpuRoof(
  kind: RoofKind,
  { threads, isa = 'portable' }: RoofOptions,
  seconds: number,
): Promise<Roof> {
  return callNative(() => (native as unknown as RooflineModule).measureRoof(kind, threads, seconds, isa))
}

/** How a measurement of roofs is made. */
export interface RoofOptions {
  threads: number
  /** Of the CPU backend: whose arithmetic the peaks are. Bandwidths are the same for all. */
  isa?: string
  seconds: number
  /** On small data where that is a choice: to see that it runs. */
  quick: boolean
}

/** All roofs of a device; those of the CPU for a number of threads. */
export async function measureRoofs(device: Device, options: RoofOptions): Promise<RoofSet> {
  const { threads, isa, seconds, quick } = options
  if (!isCpu(device)) return measureDeviceRoofs(device, seconds, quick)
  const read = await measureCpuRoof('read', options, seconds)
  const copy = await measureCpuRoof('copy', options, seconds / 2)
  const f32 = await measureCpuRoof('f32', options, seconds / 2)
  const bf16 =
    isa === 'avx512_bf16'
      ? await measureCpuRoof('bf16', options, seconds / 2)
      : { ...f32, instructions: `${f32.instructions}, bf16 widened to f32` }
  const int8 = await measureCpuRoof('int8', options, seconds / 2)
  return { threads, read, copy, f32, bf16, int8 }
}

/** The bandwidth alone: it drifts with the neighbours of a virtual machine. */
export async function measureReadRoof(device: Device, options: RoofOptions): Promise<Roof> {
  if (isCpu(device)) return measureCpuRoof('read', options, options.seconds)
  return (await measureDeviceRoofs(device, options.seconds, options.quick)).read
}

export const isCpu = (device: Device): boolean => device.name.startsWith('cpu')

/** The peak that weights of a dtype are multiplied at. */
export function computeRoof(dtype: WeightDtype): 'f32' | 'bf16' | 'int8' {
  return dtype === 'f32' || dtype === 'bf16' ? dtype : 'int8'
}

export interface Work {
  bytes: number
  flops: number
}

export interface Judgement {
  bound: Bound
  /** bytes/s or FLOP/s */
  roof: number
  /** Microseconds at the roof. */
  idealUs: number
  /** Share of the roof that was reached; 1 is all of it. */
  fraction: number
}

/** What should have taken longer, the bytes or the FLOPs, and how close `us` microseconds come to that. */
export function judge(work: Work, us: number, dtype: WeightDtype, roofs: RoofSet): Judgement {
  const peak = roofs[computeRoof(dtype)].median
  const memoryUs = (work.bytes / roofs.read.median) * 1e6
  const computeUs = (work.flops / peak) * 1e6
  const memory = memoryUs >= computeUs
  const idealUs = Math.max(memoryUs, computeUs)
  return {
    bound: memory ? 'memory' : 'compute',
    roof: memory ? roofs.read.median : peak,
    idealUs,
    fraction: idealUs / us,
  }
}
