// A whole model with random weights, through the runner the engine uses: tokens per second, and where a step's time goes.
import type { OpenMoeConfig } from '#lib/model/config'
import { KvCache, PAGE_TOKENS } from '#lib/model/kv_cache'
import { ModelRunner, type SequenceStep, type StepResult } from '#lib/model/runner'
import { floatDtype, type ModelWeights } from '#lib/model/weights'
import type { BenchCase, Group, Lab, OpenGroup } from '../cases.ts'
import { uniform } from '../ops/random_matrix.ts'
import type { Breakdown } from '../report.ts'
import type { RoofWatch } from '../roof_watch.ts'
import type { Work } from '../roofline.ts'
import type { Sampler } from '../sampling.ts'
import type { TypedShape } from '../shapes.ts'
import { breakDown, meanStep, type Profile, type ProfiledStep, profiling } from './breakdown.ts'
import { syntheticConfig } from './config.ts'
import { randomWeights } from './random_weights.ts'
import { stepWork, totalWork } from './work.ts'

/** New tokens of each sequence, and where they begin. */
interface Step {
  name: string
  tokens: number
  sequences: number
  position: number
}

/** In a sample of decode: enough for one that waits for JavaScript not to matter. */
const DECODE_STEPS = 8

export const modelGroup: Group = { name: 'model', open: openModel }

function stepsOf({ batches, prompts, context }: TypedShape): Step[] {
  return [
    ...batches.map((b) => ({ name: `model.decode b=${b}`, tokens: 1, sequences: b, position: context })),
    ...prompts.map((t) => ({ name: `model.prefill t=${t}`, tokens: t, sequences: 1, position: 0 })),
  ]
}

async function openModel(lab: Lab, shape: TypedShape): Promise<OpenGroup> {
  if (shape.layers === 0) return { cases: [], close: () => undefined }
  const bench = new ModelBench(
    lab,
    shape,
    await randomWeights(lab.device, syntheticConfig(shape), shape.dtype),
  )
  return { cases: stepsOf(shape).map((step) => bench.caseOf(step)), close: () => bench.close() }
}

class ModelBench {
  private readonly lab: Lab
  private readonly shape: TypedShape
  private readonly config: OpenMoeConfig
  private readonly weights: ModelWeights
  private readonly cache: KvCache
  private readonly pages: Int32Array[]
  private readonly profiles: Profile[] = []
  private readonly runner: ModelRunner
  private readonly profiled: ModelRunner
  private readonly next = uniform(7)

  constructor(lab: Lab, shape: TypedShape, weights: ModelWeights) {
    const { device } = lab
    this.lab = lab
    this.shape = shape
    this.weights = weights
    this.config = syntheticConfig(shape)
    const sequences = Math.max(1, ...shape.batches)
    const longest = Math.max(shape.context + 1, ...shape.prompts)
    this.cache = new KvCache(device, {
      numLayers: shape.layers,
      numKvHeads: shape.numKvHeads,
      headDim: shape.headDim,
      dtype: floatDtype(shape.dtype),
      numPages: sequences * Math.ceil((shape.context + 1) / PAGE_TOKENS) + Math.ceil(longest / PAGE_TOKENS),
    })
    this.pages = [longest, ...Array.from({ length: sequences - 1 }, () => shape.context + 1)].map((length) =>
      this.cache.reserve(length)!,
    )
    this.runner = new ModelRunner(device, this.config, weights, this.cache)
    this.profiled = new ModelRunner(profiling(device, this.profiles), this.config, weights, this.cache)
  }

  close(): void {
    this.runner.dispose()
    this.profiled.dispose()
    this.cache.dispose()
    for (const tensor of this.weights.tensors) this.lab.device.free(tensor)
  }

  caseOf(step: Step): BenchCase {
    const sum = { bytes: 0, flops: 0, steps: 0 }
    const sample = async (): Promise<number> => {
      const run = await this.run(this.runner, step)
      for (const { result } of run) {
        const { bytes, flops } = totalWork(this.workOf(result, step))
        sum.bytes += bytes
        sum.flops += flops
        sum.steps++
      }
      return run.reduce((us, { wallUs }) => us + wallUs, 0) / run.length
    }
    return {
      name: step.name,
      tokens: step.sequences * step.tokens,
      // How many experts a step touches varies with its tokens: the mean over all steps.
      work: (): Work => ({
        bytes: Math.round(sum.bytes / sum.steps),
        flops: Math.round(sum.flops / sum.steps),
      }),
      prepare: async (): Promise<Sampler> => {
        await this.fillCache(step)
        return { sample, dispose: () => undefined }
      },
      breakDown: (watch) => this.breakDown(step, watch),
    }
  }

  /** What a decode step finds in the cache: a prompt of each sequence. */
  private async fillCache({ position, sequences }: Step): Promise<void> {
    if (position === 0) return
    for (let s = 0; s < sequences; s++) {
      const prompt = { ids: this.randomIds(position), position: 0, pages: this.pages[s]!, logitRows: [] }
      await this.runner.step([prompt], { expertCapacity: 'dropless' })
    }
  }

  /** Steps as a generation makes them: the next is handed over while one runs. */
  private async run(runner: ModelRunner, step: Step): Promise<{ result: StepResult; wallUs: number }[]> {
    const count = step.tokens === 1 ? DECODE_STEPS : 1
    const run: { result: StepResult; wallUs: number }[] = []
    let start = performance.now()
    let running = this.step(runner, step)
    for (let i = 1; i <= count; i++) {
      const next = i < count ? this.step(runner, step) : undefined
      next?.catch(() => undefined) // if both fail, it is told of the first
      const result = await running
      const end = performance.now()
      run.push({ result, wallUs: (end - start) * 1000 })
      start = end
      if (next) running = next
    }
    return run
  }

  private step(runner: ModelRunner, step: Step): Promise<StepResult> {
    const sequences: SequenceStep[] = Array.from({ length: step.sequences }, (_, s) => ({
      ids: this.randomIds(step.tokens), // other experts each time
      position: step.position,
      pages: this.pages[s]!,
      logitRows: [step.tokens - 1],
    }))
    return runner.step(sequences, {
      expertCapacity: 'dropless',
      taps: ['moe.*.topk_index'], // as the engine does
      sampling: { vocabLimit: this.config.vocabSize }, // greedy
    })
  }

  private workOf({ taps }: StepResult, step: Step): Map<string, Work> {
    const { sequences: count, tokens, position } = step
    const sequences = Array.from({ length: count }, () => ({ tokens, position }))
    return stepWork(this.config, this.weights, this.shape.dtype, { sequences }, taps)
  }

  private async breakDown(step: Step, watch: RoofWatch): Promise<Breakdown> {
    const steps: (ProfiledStep & { glance: number })[] = []
    for (let i = 0; i < (this.lab.quick ? 1 : 4); i++) {
      const glance = await watch.look()
      this.profiles.length = 0
      const run = await this.run(this.profiled, step)
      const whole = run.map(({ result, wallUs }, n) => ({
        wallUs,
        profile: this.profiles[n]!,
        work: this.workOf(result, step),
      }))
      const settled = whole.length > 1 ? whole.slice(1) : whole // the first waited for JavaScript
      steps.push({ ...meanStep(settled), glance })
    }
    await watch.measure()
    const fastest = steps.reduce((best, one) => (one.wallUs < best.wallUs ? one : best))
    return breakDown(step.name, this.shape, fastest, watch.around(fastest.glance))
  }

  private randomIds(count: number): Int32Array {
    return Int32Array.from({ length: count }, () =>
      Math.floor((0.5 + 0.5 * this.next()) * this.config.vocabSize),
    )
  }
}
