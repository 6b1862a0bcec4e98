// A whole model with random weights, through the runner the engine uses: tokens per second, and where a step's time goes.
import { KvCache, PAGE_TOKENS } from '../../lib/model/kv_cache.ts'
import {
  ModelRunner,
  type SamplingInputs,
  type SequenceStep,
  type StepResult,
} from '../../lib/model/runner.ts'
import { sampleFloats, sampleInts, writeSampleRow } from '../../lib/ops/sample.ts'
import { floatDtype } from '../../lib/model/weights.ts'
import type { BenchContext, WeightDtype } from '../context.ts'
import { breakdownLines, rowLine } from '../report.ts'
import { collect } from '../sampling.ts'
import { breakDown, type Profile, type ProfiledStep, profiling } from './breakdown.ts'
import { syntheticConfig } from './config.ts'
import { randomWeights, uniform } from './random_weights.ts'
import { stepWork, totalWork } from './work.ts'

const CONTEXT = 128
const DECODE_BATCHES = [1, 8]
const PREFILL_TOKENS = [128, 512]

interface Case {
  name: string
  /** New tokens of each sequence. */
  tokens: number
  sequences: number
  position: number
}

const CASES: readonly Case[] = [
  ...DECODE_BATCHES.map((b) => ({ name: `model.decode b=${b}`, tokens: 1, sequences: b, position: CONTEXT })),
  ...PREFILL_TOKENS.map((t) => ({ name: `model.prefill t=${t}`, tokens: t, sequences: 1, position: 0 })),
]

export const modelCases = CASES.map(({ name }) => name)

export async function benchModel(context: BenchContext, dtype: WeightDtype): Promise<void> {
  const { device } = context
  const config = syntheticConfig(context.shape)
  const started = performance.now()
  const { weights, allocated } = await randomWeights(device, config, dtype)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  context.progress(
    `model ${context.shape} ${dtype}: ${(weights.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0) / 1e9).toFixed(2)} GB of weights in ${seconds} s`,
  )
  const longest = Math.max(CONTEXT + 1, ...PREFILL_TOKENS)
  const cache = new KvCache(device, {
    numLayers: config.numHiddenLayers,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    dtype: floatDtype(dtype),
    numPages: Math.max(...DECODE_BATCHES) * Math.ceil(longest / PAGE_TOKENS),
  })
  const profiles: Profile[] = []
  const runners = {
    plain: new ModelRunner(device, config, weights, cache),
    profiled: new ModelRunner(profiling(device, profiles), config, weights, cache),
  }
  const next = uniform(7)
  const randomIds = (count: number): Int32Array =>
    Int32Array.from({ length: count }, () => Math.floor((0.5 + 0.5 * next()) * config.vocabSize))
  const pagesOf = Array.from({ length: Math.max(...DECODE_BATCHES) }, () => cache.reserve(longest)!)

  const steps = (c: Case): SequenceStep[] =>
    Array.from({ length: c.sequences }, (_, s) => ({
      ids: randomIds(c.tokens), // other experts each time
      position: c.position,
      pages: pagesOf[s]!,
      logitRows: [c.tokens - 1],
    }))
  const step = (runner: ModelRunner, c: Case): Promise<StepResult> =>
    runner.step(steps(c), {
      expertCapacity: 'dropless',
      taps: ['moe.*.topk_index'],
      sampling: greedy(c.sequences, config.vocabSize),
    })
  const workOf = ({ taps }: StepResult, c: Case) => {
    const sequences = Array.from({ length: c.sequences }, () => ({ tokens: c.tokens, position: c.position }))
    return stepWork(config, weights, dtype, { sequences, logitRows: c.sequences }, taps)
  }

  for (const c of CASES) {
    if (!context.wants(c.name)) continue
    // What decode finds in the cache.
    if (c.position > 0) await step(runners.plain, { ...c, tokens: c.position, position: 0 })
    await context.refreshReadRoof(`before ${c.name} ${dtype}`)
    const work = { bytes: 0, flops: 0, steps: 0 }
    const timing = await collect(
      async () => {
        const start = performance.now()
        const result = await step(runners.plain, c)
        const us = (performance.now() - start) * 1000
        const { bytes, flops } = totalWork(workOf(result, c))
        work.bytes += bytes
        work.flops += flops
        work.steps++
        return us
      },
      context.quick ? { milliseconds: 200, samples: 5 } : { milliseconds: 3000, samples: 9 },
    )
    // How many experts a step touches varies with its tokens: the mean over all steps.
    const mean = { bytes: Math.round(work.bytes / work.steps), flops: Math.round(work.flops / work.steps) }
    const tokensPerSecond = (c.sequences * c.tokens * 1e6) / timing.medianUs
    const row = context.row(c.name, dtype, mean, timing, { tokensPerSecond })
    context.rows.push(row)
    console.log(rowLine(row))

    const profiled: ProfiledStep[] = []
    for (let i = 0; i < (context.quick ? 3 : 9); i++) {
      profiles.length = 0
      const start = performance.now()
      const result = await step(runners.profiled, c)
      const wallUs = (performance.now() - start) * 1000
      profiled.push({ wallUs, profile: profiles[0]!, work: workOf(result, c) })
    }
    const breakdown = breakDown(context, c.name, dtype, profiled)
    context.breakdowns.push(breakdown)
    console.log(breakdownLines(breakdown))
  }
  for (const runner of Object.values(runners)) runner.dispose()
  cache.dispose()
  for (const tensor of allocated) device.free(tensor)
}

function greedy(rows: number, vocabLimit: number): SamplingInputs {
  const floats = new Float32Array(rows * sampleFloats.count)
  const ints = new Int32Array(rows * sampleInts.count)
  for (let row = 0; row < rows; row++) {
    writeSampleRow(floats, ints, row, { temperature: 0 })
  }
  return { floats, ints, vocabLimit, numTop: 0 }
}
