import { describe, expect, it } from 'vitest'
import {
  bootstrapMedian,
  comparePairs,
  compareRanges,
  median,
  MIN_PAIRS,
  quantile,
  summarise,
} from '../../bench/statistics.ts'
import { random } from '../ops/describe_op.ts'

describe('quantile', () => {
  it('is linear between neighbours', () => {
    expect(quantile([10, 20, 30, 40, 50], 0.5)).toBe(30)
    expect(quantile([10, 20], 0.25)).toBe(12.5)
    expect(quantile([7], 0.9)).toBe(7)
    expect(quantile([], 0.5)).toBeNaN()
  })

  it('takes the median of values in any order', () => {
    expect(median([9, 1, 5])).toBe(5)
    expect(median([4, 1, 3, 2])).toBe(2.5)
  })
})

describe('summarise', () => {
  const sample = (us: number, switches = 0) => ({ us, switches })

  it('leaves out disturbed samples while enough others remain', () => {
    const clean = Array.from({ length: 7 }, (_, i) => sample(10 + i))
    const timing = summarise([...clean, sample(1000, 1), sample(2000, 3), sample(3000, 1)])
    expect(timing).toEqual({ medianUs: 13, p10Us: 10.6, p90Us: 15.4, samples: 7, undisturbed: 0.7 })
  })

  it('counts all of them when too few remain', () => {
    const timing = summarise([sample(10), sample(20, 1), sample(30, 1)])
    expect(timing).toMatchObject({ medianUs: 20, samples: 3, undisturbed: 1 / 3 })
  })
})

describe('bootstrapMedian', () => {
  it('gives the same interval for the same values', () => {
    const values = [1.02, 1.01, 1.04, 0.99, 1.03, 1.05]
    expect(bootstrapMedian(values)).toEqual(bootstrapMedian(values))
  })

  it('holds the median of what the values were drawn from about 95 times in 100', () => {
    const next = random(11)
    let held = 0
    for (let trial = 0; trial < 200; trial++) {
      const { low, high } = bootstrapMedian(Array.from({ length: 15 }, () => next()))
      if (low <= 0.5 && high >= 0.5) held++
    }
    expect(held / 200).toBeGreaterThan(0.88)
    expect(held / 200).toBeLessThan(1)
  })

  it('narrows with more values', () => {
    const next = random(12)
    const width = (count: number): number => {
      const { low, high } = bootstrapMedian(Array.from({ length: count }, () => next()))
      return high - low
    }
    expect(width(200)).toBeLessThan(width(10))
  })
})

describe('comparePairs', () => {
  const next = random(13)
  const pairs = (count: number, ratio: number, noise: number): [number, number][] =>
    Array.from({ length: count }, () => [100, 100 * ratio * (1 + noise * (next() - 0.5))])

  it('calls a difference beyond the noise', () => {
    expect(comparePairs(pairs(12, 0.9, 0.04)).verdict).toBe('faster')
    expect(comparePairs(pairs(12, 1.1, 0.04)).verdict).toBe('slower')
  })

  it('says nothing about equal times', () => {
    expect(comparePairs(pairs(12, 1, 0.2)).verdict).toBe('within noise')
  })

  it('says nothing about a difference smaller than code placement can make', () => {
    expect(comparePairs(pairs(30, 1.005, 0.0001)).verdict).toBe('within noise')
  })

  it('says nothing from too few pairs', () => {
    expect(comparePairs(pairs(MIN_PAIRS - 1, 0.5, 0.01)).verdict).toBe('too few pairs')
    expect(comparePairs(pairs(MIN_PAIRS, 0.5, 0.01)).verdict).toBe('faster')
  })

  it('says nothing when a part of the run says otherwise', () => {
    const noisy = [...pairs(9, 0.8, 0.01), ...pairs(3, 1.02, 0.01)]
    expect(comparePairs(noisy).interval.high).toBeLessThan(1)
    expect(comparePairs(noisy).verdict).toBe('within noise')
  })

  it('is not misled by drift that falls on both of a pair', () => {
    const drifting = Array.from({ length: 12 }, (_, i): [number, number] => [100 + 20 * i, 95 + 19 * i])
    expect(comparePairs(drifting)).toMatchObject({ verdict: 'faster', ratio: 0.95 })
  })
})

describe('compareRanges', () => {
  const timing = (medianUs: number, spread: number) => ({
    medianUs,
    p10Us: medianUs - spread,
    p90Us: medianUs + spread,
  })

  it('needs ranges that do not touch', () => {
    expect(compareRanges(timing(100, 5), timing(80, 5)).verdict).toBe('faster')
    expect(compareRanges(timing(100, 5), timing(120, 5)).verdict).toBe('slower')
    expect(compareRanges(timing(100, 15), timing(80, 15)).verdict).toBe('within noise')
  })

  it('says that it was not paired', () => {
    expect(compareRanges(timing(100, 5), timing(80, 5)).pairs).toBe(0)
  })
})
