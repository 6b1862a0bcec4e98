import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import { resolveParameters } from '../../lib/checkpoint/layout.ts'
import { openCheckpoint } from '../../lib/checkpoint/open_checkpoint.ts'
import { openDevice } from '../../lib/device.ts'
import { loadConfig } from '../../lib/model/config.ts'
import { KvCache, PAGE_TOKENS } from '../../lib/model/kv_cache.ts'
import { loadModel } from '../../lib/model/load_model.ts'
import type { LoadModelOptions, Model } from '../../lib/model/model.ts'
import { ModelRunner } from '../../lib/model/runner.ts'
import { floatDtype, loadWeights, type WeightDtype } from '../../lib/model/weights.ts'

const root = join(import.meta.dirname, '../..')
export const TINY = join(root, 'models/openmoe-tiny')

/** Data that is not part of the repository, when it lies beside it; OPENMOE_SHARED names another place. */
export function sharedFolder(): string | undefined {
  const folder = resolve(process.env.OPENMOE_SHARED ?? join(root, '../shared'))
  return existsSync(folder) ? folder : undefined
}

/** openmoe-tiny for the tests of a file or of the surrounding describe; f32, so that results can be compared. */
export function tinyModel(options: LoadModelOptions = {}): () => Model {
  let model: Model | undefined
  beforeAll(async () => {
    model = await loadModel(TINY, { dtype: 'f32', ...options })
  })
  afterAll(() => model?.dispose())
  return () => model!
}

/** openmoe-tiny, or its first layers, without model and engine: steps of any shape. */
export async function openTinyRunner(
  options: { threads?: number; dtype?: WeightDtype; numLayers?: number } = {},
) {
  const { threads = 2, dtype = 'f32', numLayers = 6 } = options
  const { config: whole } = await loadConfig(TINY)
  const device = await openDevice('cpu', { threads })
  const parameters = resolveParameters(await openCheckpoint(TINY), whole)
  const all = await loadWeights(device, whole, parameters, { dtype })
  const config = { ...whole, numHiddenLayers: numLayers }
  const weights = { ...all, layers: all.layers.slice(0, numLayers) }
  const cache = new KvCache(device, {
    numLayers: config.numHiddenLayers,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    dtype: floatDtype(dtype),
    numPages: 4 * (config.maxPositionEmbeddings / PAGE_TOKENS),
  })
  return { device, config, weights, cache, runner: new ModelRunner(device, config, weights, cache) }
}

/** Numbers that look random and are the same in every run (mulberry32). */
export function randomNumbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A prompt of random token ids after the start token. */
export function randomPrompt(random: () => number, length: number, vocabSize = 4096): number[] {
  return [0, ...Array.from({ length: length - 1 }, () => 3 + Math.floor(random() * (vocabSize - 3)))]
}

/** Sum of squared errors over the sum of squares. */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0
  let power = 0
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2
    power += expected[i]! ** 2
  }
  return actual.length === expected.length ? error / power : NaN
}

/** Waits until `condition` holds; for states that follow a promise a moment later. */
export async function eventually(condition: () => boolean, milliseconds = 5000): Promise<void> {
  const end = performance.now() + milliseconds
  while (!condition()) {
    if (performance.now() > end) throw new Error(`never true: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}
