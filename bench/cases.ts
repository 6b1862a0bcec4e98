// What every bench is made of: groups of cases that share their data, and the device they run on.
import type { Device } from '#lib/device'
import type { Matrix, Tensor } from '#lib/tensor'
import type { Breakdown } from './report.ts'
import type { RoofWatch } from './roof_watch.ts'
import type { Work } from './roofline.ts'
import { type Evictor, makeEvictor, type Sampler } from './sampling.ts'
import type { TypedShape } from './shapes.ts'

export interface BenchCase {
  name: string
  /** Memory traffic and arithmetic of one run, at their least. Asked after sampling: routing decides some of it. */
  work(): Work
  /** Tokens that come out of one run, where that is what people count. */
  tokens?: number
  prepare(): Promise<Sampler>
  /** Where the time goes, for cases of many ops. */
  breakDown?(watch: RoofWatch): Promise<Breakdown>
}

export interface OpenGroup {
  cases: BenchCase[]
  close(): void
}

/** A named group; `open` makes the data of its cases. */
export interface Group {
  name: string
  open(lab: Lab, shape: TypedShape): Promise<OpenGroup>
}

/** The device under test and what benches need besides it. */
export class Lab {
  readonly device: Device
  readonly threads: number
  readonly quick: boolean
  private evictor: Promise<Evictor> | null = null

  constructor(device: Device, options: { threads: number; quick: boolean }) {
    this.device = device
    this.threads = options.threads
    this.quick = options.quick
  }

  evict(): Promise<Evictor> {
    this.evictor ??= makeEvictor(this.device)
    return this.evictor
  }

  async dispose(): Promise<void> {
    const evictor = await this.evictor
    evictor?.dispose()
  }
}

/** The same device, which remembers what it allocates, so that a group can give it back. */
export function tracking(device: Device): { device: Device; freeAll: () => void } {
  const allocated: (Tensor | Matrix)[] = []
  const remember = <T extends Tensor | Matrix>(tensor: T): T => {
    allocated.push(tensor)
    return tensor
  }
  const tracked = Object.assign(Object.create(device) as Device, {
    empty: (...args: Parameters<Device['empty']>) => remember(device.empty(...args)),
    emptyMatrix: (...args: Parameters<Device['emptyMatrix']>) => remember(device.emptyMatrix(...args)),
    // Programs belong to the device that owns their tensors.
    compile: device.compile.bind(device),
    run: device.run.bind(device),
  })
  return { device: tracked, freeAll: () => allocated.splice(0).forEach((tensor) => device.free(tensor)) }
}
