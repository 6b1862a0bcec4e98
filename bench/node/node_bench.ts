import type { Lab } from '../cases.ts'
import type { Row } from '../report.ts'
import type { TypedShape } from '../shapes.ts'
import { comparePairs, type Comparison, type Pair, summarise, type Timing } from '../statistics.ts'
import type { Suite } from '../suite.ts'

export interface NodeBenchContext {
  lab: Lab
  suite: Suite
  shape: TypedShape
}

/** A bench with a measure of its own: what crossing between JavaScript, the native thread and the system costs. */
export interface NodeBench {
  name: string
  run(context: NodeBenchContext): Promise<Row[]>
}

/** Times without a count of context switches: nothing is left out. */
export const timingOf = (microseconds: readonly number[]): Timing =>
  summarise(microseconds.map((us) => ({ us, switches: 0 })))

export interface Pairs {
  pairs: Pair[]
  a: Timing
  b: Timing
  comparison: Comparison
}

/** A B, B A, A B ...: drift of the machine falls on both. `once` of each resolves to microseconds. */
export async function measurePairs(
  count: number,
  a: () => Promise<number>,
  b: () => Promise<number>,
): Promise<Pairs> {
  await a()
  await b()
  const pairs: Pair[] = []
  for (let i = 0; i < count; i++) {
    if (i % 2 === 0) {
      const first = await a()
      pairs.push([first, await b()])
    } else {
      const first = await b()
      pairs.push([await a(), first])
    }
  }
  return {
    pairs,
    a: timingOf(pairs.map(([us]) => us)),
    b: timingOf(pairs.map(([, us]) => us)),
    comparison: comparePairs(pairs),
  }
}
