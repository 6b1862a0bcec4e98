import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { RoofWatch, type WatchedTime } from '../../bench/roof_watch.ts'
import type { Roof, RoofSet } from '../../bench/roofline.ts'

const roof = (median: number): Roof => ({ median, best: median, cleanSlices: 9, slices: 9, instructions: '' })
const roofs = (read: number, int8: number): RoofSet => ({
  threads: 2,
  read: roof(read),
  copy: roof(1),
  f32: roof(1),
  bf16: roof(1),
  int8: roof(int8),
})

/** A watch that finds one of `found` after the other. */
function watchOf(found: readonly RoofSet[]): RoofWatch {
  let next = 0
  return new RoofWatch({ glance: () => Promise.resolve(found[next++]!) }, 'int8', found[0]!)
}

/** Samples of these lengths, each between two glances of its own. */
async function sample(watch: RoofWatch, times: readonly number[]): Promise<WatchedTime[]> {
  const samples: WatchedTime[] = []
  for (const us of times) {
    samples.push({ us, glance: await watch.look() })
    vi.advanceTimersByTime(200)
  }
  await watch.measure()
  return samples
}

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

describe('RoofWatch', () => {
  it('looks again once the last time is a tenth of a second ago', async () => {
    const watch = watchOf([roofs(10e9, 100), roofs(20e9, 300), roofs(60e9, 300)])
    expect(await watch.look()).toBe(0)
    vi.advanceTimersByTime(99)
    expect(await watch.look()).toBe(0)
    vi.advanceTimersByTime(2)
    expect(await watch.look()).toBe(1)
    await watch.measure()
    expect(watch.around(0).read.median).toBe(15e9)
    expect(watch.around(0).int8.median).toBe(200)
    expect(watch.around(1).read.median).toBe(40e9)
    expect(watch.medianRead).toBe(20e9)
  })

  it('holds each sample against the roofs on both sides of it', async () => {
    // The memory becomes four times as fast; so do the samples, which always reach half of it.
    const watch = watchOf([roofs(10e9, 1e15), roofs(10e9, 1e15), roofs(40e9, 1e15), roofs(40e9, 1e15)])
    const samples = await sample(watch, [200, 80, 50])
    expect(watch.judge({ bytes: 1e6, flops: 1 }, samples)).toEqual({
      bound: 'memory',
      roof: 25e9,
      fraction: 0.5,
    })
  })

  it('says which roof most samples were bound by, and how high that was', async () => {
    const slow = roofs(1e8, 2e9) // 10 s for the bytes, 1 s for the products
    const watch = watchOf([slow, slow, roofs(1e11, 2e9), roofs(1e11, 2e9)])
    const samples = await sample(watch, [20e6, 2e6, 2e6])
    expect(watch.judge({ bytes: 1e9, flops: 2e9 }, samples)).toEqual({
      bound: 'compute',
      roof: 2e9,
      fraction: 0.5,
    })
  })
})
