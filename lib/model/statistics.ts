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

/** What the engine asks every step for. */
export const ROUTING_TAPS = ['moe.*.topk_index', 'moe.*.kept'] as const

/** Counts where tokens were routed. */
export class RoutingStatistics {
  private readonly layers = new Map<number, MoeLayerStats>()
  private readonly numExperts: number

  constructor(numExperts: number) {
    this.numExperts = numExperts
  }

  add(taps: ReadonlyMap<string, HostTensor>): void {
    for (const [name, { data, shape }] of taps) {
      const [, index, what] = /^moe\.(\d+)\.(topk_index|kept)$/.exec(name) ?? []
      if (index === undefined) continue
      const stats = this.layer(Number(index))
      const topK = shape[1]!
      if (what === 'topk_index') for (const expert of data) stats.expertLoad[expert]!++
      else data.forEach((row, i) => row < 0 && stats.dropped[i % topK]!++)
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

  private layer(index: number): MoeLayerStats {
    let stats = this.layers.get(index)
    if (!stats) {
      stats = { expertLoad: new Array<number>(this.numExperts).fill(0), dropped: [0, 0] }
      this.layers.set(index, stats)
    }
    return stats
  }
}
