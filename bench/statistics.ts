// What numbers say and what they do not: quantiles, bootstrap intervals, verdicts on pairs.

export interface Sample {
  /** Microseconds. */
  us: number
  /** Involuntary context switches of this process while it was taken. */
  switches: number
}

export interface Timing {
  medianUs: number
  p10Us: number
  p90Us: number
  samples: number
  /** Share of the samples in which no thread of this process was pushed off its core. */
  undisturbed: number
}

const MIN_UNDISTURBED = 7

const undisturbed = ({ switches }: Sample): boolean => switches === 0

/** Other work on the machine disturbs some samples; while enough are left, those do not count. */
export function countedOf<S extends Sample>(samples: readonly S[]): readonly S[] {
  const quiet = samples.filter(undisturbed)
  return quiet.length >= MIN_UNDISTURBED ? quiet : samples
}

export function summarise(samples: readonly Sample[]): Timing {
  const counted = countedOf(samples)
  const sorted = counted.map(({ us }) => us).sort((a, b) => a - b)
  return {
    medianUs: quantile(sorted, 0.5),
    p10Us: quantile(sorted, 0.1),
    p90Us: quantile(sorted, 0.9),
    samples: counted.length,
    undisturbed: samples.filter(undisturbed).length / samples.length,
  }
}

/** Linear between neighbours; NaN of nothing. */
export function quantile(sorted: readonly number[], q: number): number {
  const at = q * (sorted.length - 1)
  const low = sorted[Math.floor(at)] ?? NaN
  return low + (at - Math.floor(at)) * ((sorted[Math.ceil(at)] ?? NaN) - low)
}

export const median = (values: readonly number[]): number =>
  quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  )

export interface Interval {
  low: number
  high: number
}

const RESAMPLES = 2000
const CONFIDENCE = 0.95

/** 95 % interval of the median by the percentile bootstrap. The seed is fixed: the same values, the same interval. */
export function bootstrapMedian(values: readonly number[]): Interval {
  const next = randomIndex(values.length)
  const medians = Array.from({ length: RESAMPLES }, () => median(values.map(() => values[next()]!)))
  medians.sort((a, b) => a - b)
  const tail = (1 - CONFIDENCE) / 2
  return { low: quantile(medians, tail), high: quantile(medians, 1 - tail) }
}

/** mulberry32, as an index below `count`. */
function randomIndex(count: number): () => number {
  let state = 0x5eed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * count)
  }
}

export type Verdict = 'faster' | 'slower' | 'within noise' | 'too few pairs'

export interface Comparison {
  /** Time of B over time of A, the median of the pairs: below 1, B is faster. */
  ratio: number
  interval: Interval
  pairs: number
  verdict: Verdict
}

/** Times of A and B, taken one right after the other. */
export type Pair = readonly [a: number, b: number]

// Fewer pairs say nothing: the bootstrap of five values has an interval, but not one of 95 %.
export const MIN_PAIRS = 6
// A difference nobody would act on, and about what code placement alone can cause.
const MIN_DIFFERENCE = 0.01
// What is true of the whole run is true of each of its parts.
const PARTS = 3

/**
 * What disturbs the machine disturbs both of a pair. A verdict needs an interval without 1, a difference that matters,
 * each third of the pairs on the same side of 1, and MIN_PAIRS.
 */
export function comparePairs(pairs: readonly Pair[]): Comparison {
  const ratios = pairs.map(([a, b]) => b / a)
  const ratio = median(ratios)
  const interval = bootstrapMedian(ratios)
  const size = Math.ceil(ratios.length / PARTS)
  const parts = Array.from({ length: PARTS }, (_, i) => median(ratios.slice(i * size, (i + 1) * size)))
  const agreed = parts.every((part) => part < 1 === ratio < 1)
  const verdict = agreed ? verdictOf(ratio, interval) : 'within noise'
  return {
    ratio,
    interval,
    pairs: pairs.length,
    verdict: pairs.length < MIN_PAIRS ? 'too few pairs' : verdict,
  }
}

function verdictOf(ratio: number, { low, high }: Interval): Verdict {
  const clear = low > 1 || high < 1
  if (!clear || Math.abs(ratio - 1) < MIN_DIFFERENCE) return 'within noise'
  return ratio < 1 ? 'faster' : 'slower'
}

/**
 * Two runs at different times: drift of the machine between them cannot be told from a difference, so a verdict needs
 * ranges that do not touch, and even then says less than pairs.
 */
export function compareRanges(
  a: Pick<Timing, 'medianUs' | 'p10Us' | 'p90Us'>,
  b: Pick<Timing, 'medianUs' | 'p10Us' | 'p90Us'>,
): Comparison {
  const ratio = b.medianUs / a.medianUs
  const interval = { low: b.p10Us / a.p90Us, high: b.p90Us / a.p10Us }
  return { ratio, interval, pairs: 0, verdict: verdictOf(ratio, interval) }
}
