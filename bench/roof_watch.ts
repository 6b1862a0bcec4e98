// Roofs beside samples: measured again every few of them, so that each is held against what the machine could do then.
import type { WeightDtype } from '#lib/model/weights'
import { judge, type Judgement, type RoofMeter, type RoofSet, type Work } from './roofline.ts'
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
  private last: RoofSet

  /** `roofs`: whatever is not measured again. */
  constructor(meter: Pick<RoofMeter, 'glance'>, dtype: WeightDtype, roofs: RoofSet) {
    this.meter = meter
    this.dtype = dtype
    this.last = roofs
  }

  /** Before each sample: measures unless that was done just now. Returns the sample's `glance`. */
  async look(): Promise<number> {
    if (performance.now() > this.lookedAt + LOOK_MS) await this.measure()
    return this.glances.length - 1
  }

  /** After the last sample. */
  async finish(): Promise<void> {
    await this.measure()
  }

  /** Half way between the glances before and after a sample. */
  around(glance: number): RoofSet {
    const [before, after] = [this.glances[glance]!, this.glances[glance + 1]!]
    const mean = (of: (roofs: RoofSet) => { median: number }): number =>
      (of(before).median + of(after).median) / 2
    const { read, f32, bf16, int8 } = after
    return {
      ...after,
      read: { ...read, median: mean((roofs) => roofs.read) },
      f32: { ...f32, median: mean((roofs) => roofs.f32) },
      bf16: { ...bf16, median: mean((roofs) => roofs.bf16) },
      int8: { ...int8, median: mean((roofs) => roofs.int8) },
    }
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

  private async measure(): Promise<void> {
    this.last = await this.meter.glance(this.dtype, this.last)
    this.glances.push(this.last)
    this.lookedAt = performance.now()
  }
}
