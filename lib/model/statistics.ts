import type { HostTensor } from '../tensor.ts'

export interface MoeLayerStats {
  /** Choices per expert since the model was loaded, before dropping. */
  expertLoad: number[]
  /** Choices dropped by capacity: [first choices, second choices]. Always 0 when dropless. */
  dropped: number[]
}

export interface ModelStats {
  requests: { waiting: number; running: number; finished: number }
  tokens: { prompt: number; generated: number }
  /** Runs of the network, and the milliseconds spent in them. */
  steps: { count: number; milliseconds: number }
  /** Per MoE layer index. */
  moe: Record<number, MoeLayerStats>
}

/** What the engine asks every step for. Without a capacity nothing is dropped. */
export const routingTaps = (hasCapacity: boolean): readonly string[] =>
  hasCapacity ? ['moe.*.topk_index', 'moe.*.kept'] : ['moe.*.topk_index']

/** Counts where tokens were routed. */
export class RoutingStatistics {
  private readonly layers = new Map<number, MoeLayerStats>()
  /** What a tap counts, by its name: this runs for every token. */
  private readonly counters = new Map<string, (tensor: HostTensor) => void>()
  private readonly numExperts: number

  constructor(numExperts: number) {
    this.numExperts = numExperts
  }

  add(taps: ReadonlyMap<string, HostTensor>): void {
    for (const [name, tensor] of taps) {
      let count = this.counters.get(name)
      if (!count) this.counters.set(name, (count = this.counterOf(name)))
      count(tensor)
    }
  }

  toJSON(): Record<number, MoeLayerStats> {
    return Object.fromEntries(
      [...this.layers].map(([i, { expertLoad, dropped }]) => [
        i,
        { expertLoad: [...expertLoad], dropped: [...dropped] },
      ]),
    )
  }

  private counterOf(tap: string): (tensor: HostTensor) => void {
    const [, index, what] = /^moe\.(\d+)\.(topk_index|kept)$/.exec(tap) ?? []
    if (index === undefined) return () => undefined
    const { expertLoad, dropped } = this.layer(Number(index))
    if (what === 'topk_index') {
      return ({ data }) => {
        for (const expert of data) expertLoad[expert]!++
      }
    }
    return ({ data, shape }) => {
      for (let i = 0; i < data.length; i++) if (data[i]! < 0) dropped[i % shape[1]!]!++
    }
  }

  private layer(index: number): MoeLayerStats {
    let stats = this.layers.get(index)
    if (!stats) {
      stats = { expertLoad: new Array<number>(this.numExperts).fill(0), dropped: [0, 0] }
      this.layers.set(index, stats)
    }
    return stats
  }
}
