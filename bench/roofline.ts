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

declare const kind: unique symbol
interface NativeMeter {
  readonly [kind]: 'roof meter'
}

interface RooflineModule {
  openRoofMeter(threads: number, isa: string): NativeMeter
  closeRoofMeter(meter: NativeMeter): void
  measureRoof(meter: NativeMeter, kind: RoofKind, seconds: number): Promise<Roof>
  readFile(path: string, threads: number, into: ReadInto): Promise<number>
}

const rooflines = native as unknown as RooflineModule

/**
 * Where a file is read to: a block of each thread's that stays in cache, which asks no memory to hold it, or memory that
 * is allocated for it, as a device allocates it for weights, and released after the clock has stopped.
 */
export type ReadInto = 'cache' | 'fresh'

/** Microseconds to read a file once. */
export async function readFileUs(file: string, threads: number, into: ReadInto): Promise<number> {
  const seconds = await callNative(() => rooflines.readFile(file, threads, into))
  return seconds * 1e6
}

// Five slices of each of three ways to read, about a millisecond each; five of a peak.
const GLANCE_SECONDS = { read: 0.03, peak: 0.01 }

/** The roofs of a CPU for a number of threads, or of a device whose threads nobody chooses. Holds 1 GiB until it is closed. */
export class RoofMeter {
  private readonly device: Device
  private readonly options: RoofOptions
  private readonly meter: NativeMeter | undefined

  constructor(device: Device, options: RoofOptions) {
    this.device = device
    this.options = options
    if (device.name.startsWith('cpu'))
      this.meter = callNative(() => rooflines.openRoofMeter(options.threads, options.isa ?? 'portable'))
  }

  /** All of them. */
  async measure(seconds: number): Promise<RoofSet> {
    if (!this.meter) return measureDeviceRoofs(this.device, seconds, this.options.quick)
    const { threads, isa } = this.options
    const read = await this.cpu('read', seconds)
    const copy = await this.cpu('copy', seconds / 2)
    const f32 = await this.cpu('f32', seconds / 2)
    const bf16 =
      isa === 'avx512_bf16'
        ? await this.cpu('bf16', seconds / 2)
        : { ...f32, instructions: `${f32.instructions}, bf16 widened to f32` }
    const int8 = await this.cpu('int8', seconds / 2)
    return { threads, read, copy, f32, bf16, int8 }
  }

  /**
   * What a product with weights of a dtype is held against, in a few hundredths of a second: both drift with the
   * neighbours of a virtual machine. The others, and all of another device, are as in `roofs`.
   */
  async glance(dtype: WeightDtype, roofs: RoofSet): Promise<RoofSet> {
    if (!this.meter) return roofs
    const read = await this.cpu('read', GLANCE_SECONDS.read)
    const peak = computeRoof(dtype)
    return { ...roofs, read, [peak]: await this.cpu(peak, GLANCE_SECONDS.peak) }
  }

  /** The read bandwidth of a CPU alone. */
  read(seconds: number): Promise<Roof> {
    return this.cpu('read', seconds)
  }

  /** Nothing can be measured afterwards. */
  close(): void {
    if (this.meter) rooflines.closeRoofMeter(this.meter)
  }

  private cpu(kind: RoofKind, seconds: number): Promise<Roof> {
    return callNative(() => rooflines.measureRoof(this.meter!, kind, seconds))
  }
}

/** How roofs are measured. */
export interface RoofOptions {
  threads: number
  /** Of the CPU backend: whose arithmetic the peaks are. Bandwidths are the same for all. */
  isa?: string
  /** On small data where that is a choice: to see that it runs. */
  quick: boolean
}

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
