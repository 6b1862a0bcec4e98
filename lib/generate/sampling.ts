// Rows of sampling parameters for the sequences that get a token in a step.
import { sampleFloats, sampleInts, writeSampleRow } from '../ops/sample.ts'
import type { SamplingInputs } from '../model/runner.ts'
import type { Sequence } from './request.ts'

/** `vocabLimit`: ids from here on name no token. `maxHistory`: the longest sequence there can be. */
export function samplingInputs(
  sequences: readonly Sequence[],
  vocabLimit: number,
  maxHistory: number,
): SamplingInputs {
  if (sequences.every(isPlainlyGreedy)) return { vocabLimit }
  const rows = sequences.length
  const floats = new Float32Array(rows * sampleFloats.count)
  const ints = new Int32Array(rows * sampleInts.count)
  const biases = sequences.map(({ request }) => Object.entries(request.options.logitBias))
  // Sizes are rounded up so that a kept program fits most steps.
  const maxBias = roundUp(Math.max(...biases.map((bias) => bias.length)))
  const history = sequences.some(needsHistory)
    ? { ids: new Int32Array(rows * maxHistory), max: maxHistory }
    : undefined
  const bias =
    maxBias > 0
      ? { ids: new Int32Array(rows * maxBias), values: new Float32Array(rows * maxBias), max: maxBias }
      : undefined

  sequences.forEach((sequence, row) => {
    const { options, prompt } = sequence.request
    const penalised = needsHistory(sequence)
    writeSampleRow(floats, ints, row, {
      ...options,
      choice: 0,
      position: sequence.sampled,
      historyLength: penalised ? sequence.length : 0,
      promptLength: penalised ? prompt.length : 0,
      numBias: biases[row]!.length,
    })
    if (penalised) history!.ids.set(sequence.ids(0, sequence.length), row * maxHistory)
    biases[row]!.forEach(([id, value], i) => {
      bias!.ids[row * maxBias + i] = Number(id)
      bias!.values[row * maxBias + i] = value
    })
  })
  const wanted = sequences.map(({ request }) => request.options.logprobs)
  const numTop = roundUp(Math.max(...wanted.map((count) => count ?? 0)))
  const logprobs = wanted.some((count) => count !== undefined)
  return { vocabLimit, rows: { floats, ints, history, bias, logprobs, numTop } }
}

/** Takes the likeliest token of the logits as they come, and nobody asks how likely it was. */
function isPlainlyGreedy(sequence: Sequence): boolean {
  const { temperature, logprobs, logitBias } = sequence.request.options
  if (temperature !== 0 || logprobs !== undefined || needsHistory(sequence)) return false
  return Object.keys(logitBias).length === 0
}

export function needsHistory({ request: { options } }: Sequence): boolean {
  return options.repetitionPenalty !== 1 || options.frequencyPenalty !== 0 || options.presencePenalty !== 0
}

const roundUp = (n: number): number => (n === 0 ? 0 : 2 ** Math.ceil(Math.log2(n)))
