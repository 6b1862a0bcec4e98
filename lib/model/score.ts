import type { Device } from '../device.ts'
import type { OpenMoeConfig } from './config.ts'
import { KvCache, PAGE_TOKENS } from './kv_cache.ts'
import { type ExpertCapacity, ModelRunner } from './runner.ts'
import { sampleFloats, sampleInts, writeSampleRow } from '../ops/sample.ts'
import type { ModelWeights } from './weights.ts'

export interface ScoreResult {
  tokens: Int32Array
  /** Natural log-probability of tokens[i + 1] given tokens[0..i]; one less than tokens. */
  logprobs: Float32Array
  /** Mean negative log-probability in nats. */
  natsPerToken: number
}

// Rows of the head in one run: 64 x 256384 logits are 66 MB.
const ROWS_PER_CHUNK = 64

/** Scores one sequence. Without a capacity limit in chunks, so memory stays small whatever the vocabulary. */
export async function score(
  model: { device: Device; config: OpenMoeConfig; weights: ModelWeights; kvDtype: 'f32' | 'bf16' },
  tokens: Int32Array,
  expertCapacity: ExpertCapacity,
  signal?: AbortSignal,
): Promise<ScoreResult> {
  const { device, config, weights } = model
  const targets = tokens.length - 1
  // Under a limit the sequence is one capacity group (spec 4.4), so it must be one run.
  const chunk = expertCapacity === 'dropless' ? ROWS_PER_CHUNK : tokens.length
  const cache = new KvCache(device, {
    numLayers: config.numHiddenLayers,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    dtype: model.kvDtype,
    numPages: Math.ceil(tokens.length / PAGE_TOKENS),
  })
  const logprobs = new Float32Array(targets)
  const runner = new ModelRunner(device, config, weights, cache)
  try {
    const pages = cache.reserve(tokens.length)!
    for (let start = 0; start < targets; start += chunk) {
      signal?.throwIfAborted()
      const end = Math.min(start + chunk, expertCapacity === 'dropless' ? targets : tokens.length)
      const rows = Math.min(end, targets) - start
      const floats = new Float32Array(rows * sampleFloats.count)
      const ints = new Int32Array(rows * sampleInts.count)
      for (let r = 0; r < rows; r++) writeSampleRow(floats, ints, r, { forcedId: tokens[start + r + 1]! })
      const result = await runner.step(
        [
          {
            ids: tokens.subarray(start, end),
            position: start,
            pages,
            logitRows: Array.from({ length: rows }, (_, r) => r),
          },
        ],
        {
          expertCapacity,
          sampling: { vocabLimit: config.vocabSize, rows: { floats, ints, logprobs: true, numTop: 0 } },
        },
      )
      logprobs.set(result.logprobs!, start)
    }
  } finally {
    runner.dispose()
    cache.dispose()
  }
  const sum = logprobs.reduce((total, logprob) => total + logprob, 0)
  return { tokens, logprobs, natsPerToken: targets > 0 ? -sum / targets : 0 }
}
