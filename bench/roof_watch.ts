// Roofs beside samples: measured again every few of them, so that each is held against what the machine could do then.
import type { WeightDtype } from '#lib/model/weights'
import {
  computeRoof,
  judge,
  type Judgement,
  type Roof,
  type RoofKind,
  type RoofMeter,
  type RoofSet,
  type Work,
} from './roofline.ts'
import { median } from './statistics.ts'

// A shared machine changes its bandwidth within tenths of a second, its peaks as well.
const LOOK_MS = 100

/** A time, and between which of the watch's glances it was taken. */
export interface WatchedTime {
  us: number
  glance: number
}

export class RoofWatch {
  private readonly glances: RoofSet[] = []
  private lookedAt = -Infinity
  private readonly meter: Pick<RoofMeter, 'glance'>
  private readonly dtype: WeightDtype
  private readonly roofs: RoofSet

  /** `roofs`: whatever is not measured again. */
  constructor(meter: Pick<RoofMeter, 'glance'>, dtype: WeightDtype, roofs: RoofSet) {
    this.meter = meter
    this.dtype = dtype
    this.roofs = roofs
  }

  /** Before each sample: measures unless that was done just now. Returns the sample's `glance`. */
  async look(): Promise<number> {
    if (performance.now() > this.lookedAt + LOOK_MS) await this.measure()
    return this.glances.length - 1
  }

  /** Looks at once: also needed after the last sample. */
  async measure(): Promise<void> {
    this.glances.push(await this.meter.glance(this.dtype, this.roofs))
    this.lookedAt = performance.now()
  }

  /** Half way between the glances before and after a sample. */
  around(glance: number): RoofSet {
    const [before, after] = [this.glances[glance]!, this.glances[glance + 1]!]
    const between = (kind: RoofKind): Roof => ({
      ...after[kind],
      median: (before[kind].median + after[kind].median) / 2,
    })
    const peak = computeRoof(this.dtype)
    return { ...after, read: between('read'), [peak]: between(peak) }
  }

  /** Of the glances so far. */
  get medianRead(): number {
    return median(this.glances.map(({ read }) => read.median))
  }

  /** The median of the shares of their roofs that samples reached, and of the roofs. */
  judge(work: Work, samples: readonly WatchedTime[]): Omit<Judgement, 'idealUs'> {
    const judged = samples.map(({ us, glance }) => judge(work, us, this.dtype, this.around(glance)))
    const memory = judged.filter(({ bound }) => bound === 'memory')
    const bound = 2 * memory.length >= judged.length ? 'memory' : 'compute'
    return {
      bound,
      roof: median(judged.filter((one) => one.bound === bound).map(({ roof }) => roof)),
      fraction: median(judged.map(({ fraction }) => fraction)),
    }
  }
}
