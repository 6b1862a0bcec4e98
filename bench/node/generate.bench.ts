// What JavaScript costs: model.generate() against the same decode steps queued on the device's thread without it.
import { KvCache, PAGE_TOKENS } from '#lib/model/kv_cache'
import { ModelRunner } from '#lib/model/runner'
import { floatDtype } from '#lib/model/weights'
import type { TypedShape } from '../shapes.ts'
import { median } from '../statistics.ts'
import { measurePairs, type NodeBench } from './node_bench.ts'
import { type SyntheticModel, withModel } from './synthetic_model.ts'

export const NEW_TOKENS = 48
const PAIRS = 8

export const generateBench: NodeBench = {
  name: 'node.generate',
  run: ({ suite, shape }) => {
    if (shape.layers === 0) return Promise.resolve([])
    return withModel(shape, suite.deviceOptions, async (synthetic) => {
      const native = await nativeDriver(synthetic, shape)
      const count = suite.options.quick ? 2 : PAIRS
      const measured = await measurePairs(count, native, () => generateUs(synthetic))
      const { pairs, a, b, comparison } = measured
      const host = median(pairs.map(([alone, whole]) => whole - alone))
      const row = {
        ...suite.labels('node.generate', shape),
        ...b,
        bytes: 0,
        flops: 0,
        bound: 'native' as const,
        roof: a.medianUs,
        fraction: 1 / comparison.ratio,
        tokensPerSecond: 1e6 / b.medianUs,
        comparison,
        note: `JavaScript costs ${host.toFixed(0)} us a token`,
      }
      return [row]
    })
  },
}

/** Microseconds per token after the first. */
export async function generateUs({ model, prompt }: SyntheticModel): Promise<number> {
  const { timings } = await model.generate(prompt, { maxTokens: NEW_TOKENS + 1, ignoreEos: true })
  return ((timings.totalMs - timings.firstTokenMs) * 1000) / NEW_TOKENS
}

/**
 * The steps that a generation made, with its tokens at its positions, queued all at once: the device's thread takes one
 * after the other and never waits for JavaScript. No taps, no text, no scheduling.
 */
async function nativeDriver(synthetic: SyntheticModel, shape: TypedShape): Promise<() => Promise<number>> {
  const { device, config, weights, model, prompt } = synthetic
  const { tokens } = await model.generate(prompt, { maxTokens: NEW_TOKENS + 1, ignoreEos: true })
  const length = prompt.length + NEW_TOKENS
  const cache = new KvCache(device, {
    numLayers: config.numHiddenLayers,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    dtype: floatDtype(shape.dtype),
    numPages: Math.ceil(length / PAGE_TOKENS),
  })
  const runner = new ModelRunner(device, config, weights, cache) // freed with the model's device
  const pages = cache.reserve(length)!
  await runner.step([{ ids: prompt, position: 0, pages, logitRows: [] }], { expertCapacity: 'dropless' })
  const step = (i: number) =>
    runner.step([{ ids: [tokens[i]!], position: prompt.length + i, pages, logitRows: [0] }], {
      expertCapacity: 'dropless',
      sampling: { vocabLimit: config.vocabSize },
    })
  return async () => {
    const start = performance.now()
    await Promise.all(Array.from({ length: NEW_TOKENS }, (_, i) => step(i)))
    return ((performance.now() - start) * 1000) / NEW_TOKENS
  }
}
