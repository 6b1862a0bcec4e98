import { eventLoopBench } from './event_loop.bench.ts'
import { firstTokenBench } from './first_token.bench.ts'
import { generateBench } from './generate.bench.ts'
import { loadBench } from './load.bench.ts'
import { neighbourBench } from './neighbour.bench.ts'
import type { NodeBench } from './node_bench.ts'

export type { NodeBench } from './node_bench.ts'

export const nodeBenches: readonly NodeBench[] = [
  generateBench,
  eventLoopBench,
  neighbourBench,
  loadBench,
  firstTokenBench,
]
