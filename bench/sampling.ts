// How a case is timed: tinybench asks for samples until it has enough, a case says how long one took.
import { readFileSync } from 'node:fs'
import { Bench } from 'tinybench'
import type { Results } from '#lib/compiled_program'
import type { Device } from '#lib/device'
import { moePermute } from '#lib/ops/moe_permute'
import type { Program } from '#lib/program'
import { tensor } from '#lib/tensor'
import { identityRoute } from './ops/random_route.ts'
import type { Sample } from './statistics.ts'

/** How long to sample, and how many at least. */
export interface Budget {
  milliseconds: number
  samples: number
}

/** A case made ready: data in place, program recorded, caches as they should be. */
export interface Sampler {
  /** Runs once; resolves to microseconds. */
  sample(): Promise<number>
  dispose(): void
}

// Shorter than this, and a sample is mostly the clock.
const MIN_SAMPLE_US = 20
const MAX_REPEATS = 64

/**
 * Calls `once` for a while, and takes the duration it returns for its own: kernels are timed on the device's thread,
 * where the clock of this one sees the hop there and back. What `look` does before each sample is in no time; what it
 * resolves to is noted with it.
 */
export async function collect<T>(
  once: () => Promise<number>,
  budget: Budget,
  look: () => Promise<T>,
): Promise<(Sample & { glance: T })[]> {
  const samples: (Sample & { glance: T })[] = []
  const bench = new Bench({
    time: budget.milliseconds,
    iterations: budget.samples,
    warmup: false,
    throws: true,
  })
  bench.add('sample', async () => {
    const glance = await look()
    const before = process.resourceUsage().involuntaryContextSwitches
    const start = bench.now()
    const us = await once()
    const spent = bench.now() - start
    samples.push({ us, glance, switches: process.resourceUsage().involuntaryContextSwitches - before })
    return { overriddenDuration: us / 1000, overriddenIterationCost: spent }
  })
  await once() // touches memory and grows scratch
  await bench.run()
  return samples.slice(-(bench.tasks[0]?.runs ?? samples.length))
}

/** Fills the caches with something else: what a decode step finds of an op's weights. */
export interface Evictor {
  record(p: Program): void
  dispose(): void
}

const EVICTOR_COLUMNS = 1024

/** By an op that every backend has: moe_permute reads twice the last cache, and writes as much. */
export async function makeEvictor(device: Device): Promise<Evictor> {
  const rows = (2 * lastCacheBytes()) / 4 / EVICTOR_COLUMNS
  // Written everywhere: untouched pages are no memory.
  const x = await device.upload(
    tensor(new Float32Array(rows * EVICTOR_COLUMNS).fill(1), [rows, EVICTOR_COLUMNS]),
  )
  const route = identityRoute(rows)
  return {
    record: (p) => void moePermute(p, x, route),
    dispose: () => device.free(x),
  }
}

function lastCacheBytes(): number {
  try {
    const text = readFileSync('/sys/devices/system/cpu/cpu0/cache/index3/size', 'utf8')
    return Math.max(8 << 20, parseInt(text) * 1024)
  } catch {
    return 64 << 20
  }
}

/**
 * Kernel time of what `record` records, without the hop to the device's thread and back: repeated inside one program,
 * as ops follow each other in a step, until a sample is long enough; with an evictor, from cold caches each time.
 */
export async function recordingSampler(
  device: Device,
  record: (p: Program) => unknown,
  evictor: Evictor | null,
): Promise<Sampler> {
  const compile = (repeats: number) =>
    device.compile((p): Results => {
      for (let i = 0; i < repeats; i++) {
        if (evictor) p.scope('evict', () => evictor.record(p))
        p.scope('case', () => record(p))
      }
      return [] // copying results to the host is no part of the op
    })
  const timed = async (program: ReturnType<typeof compile>): Promise<number> => {
    const { profile = [] } = await program.run({}, { profile: true })
    return profile.reduce(
      (sum, { label, microseconds }) => sum + (label.startsWith('case.') ? microseconds : 0),
      0,
    )
  }
  const single = compile(1)
  await timed(single)
  const estimate = Math.max(0.05, Math.min(await timed(single), await timed(single)))
  const repeats = Math.min(MAX_REPEATS, Math.ceil(MIN_SAMPLE_US / estimate))
  const program = repeats === 1 ? single : compile(repeats)
  return {
    sample: async () => (await timed(program)) / repeats,
    dispose: () => new Set([single, program]).forEach((used) => used.dispose()),
  }
}
