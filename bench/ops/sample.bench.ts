import { sample, type SampleParams, writeSampleRow } from '#lib/ops/sample'
import { tensor } from '#lib/tensor'
import type { OpBench } from '../ops.ts'
import { randomHost } from './random.ts'

const WAYS: [string, SampleParams][] = [
  ['greedy', {}],
  ['top-k 50', { temperature: 1, topK: 50 }],
  ['top-p 0.9', { temperature: 1, topP: 0.9 }],
]

/** Logits fall off as a language model's do: most of the mass on some hundred ids, scattered over the vocabulary. */
function randomLogits(rows: number, vocabSize: number) {
  const logits = randomHost('f32', [rows, vocabSize])
  for (let i = 0; i < logits.data.length; i++) {
    const rank = 1 + vocabSize * Math.random()
    logits.data[i] = logits.data[i]! - 2 * Math.log(rank)
  }
  return logits
}

export const bench: OpBench = {
  cases(device, { vocabSize, batches }) {
    return Promise.all(
      batches.flatMap((rows) =>
        WAYS.map(async ([way, params]) => {
          const logits = await device.upload(randomLogits(rows, vocabSize))
          const floats = tensor(new Float32Array(6 * rows), [rows, 6])
          const ints = tensor(new Int32Array(9 * rows), [rows, 9])
          for (let row = 0; row < rows; row++) {
            writeSampleRow(floats.data as Float32Array, ints.data as Int32Array, row, {
              ...params,
              seed: row,
            })
          }
          return {
            name: `b=${rows} ${way}`,
            record: (p) => sample(p, logits, { floats, ints }).token,
            bytes: rows * vocabSize * 4,
            flops: rows * vocabSize * 18, // an exponential
            bound: 'compute' as const,
          }
        }),
      ),
    )
  },
}
