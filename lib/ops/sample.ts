import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/** Columns of the parameter rows; the order is shared with native/ops/sample.h. */
export const sampleFloats = {
  temperature: 0,
  topP: 1,
  minP: 2,
  repetitionPenalty: 3,
  frequencyPenalty: 4,
  presencePenalty: 5,
  count: 6,
} as const
export const sampleInts = {
  topK: 0,
  seedLow: 1,
  seedHigh: 2,
  choice: 3,
  position: 4,
  historyLength: 5,
  promptLength: 6,
  numBias: 7,
  forcedId: 8,
  count: 9,
} as const

/** How one row is sampled. What is left out changes nothing (and temperature 0 is greedy). */
export interface SampleParams {
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  repetitionPenalty?: number
  frequencyPenalty?: number
  presencePenalty?: number
  /** Up to 64 bits. */
  seed?: number | bigint
  choice?: number
  position?: number
  historyLength?: number
  promptLength?: number
  numBias?: number
  /** Takes this token instead of drawing one; -1 draws. */
  forcedId?: number
}

/** Fills row `row` of the arrays that `sample` takes as floats [num_rows, 6] and ints [num_rows, 9]. */
export function writeSampleRow(
  floats: Float32Array,
  ints: Int32Array,
  row: number,
  params: SampleParams,
): void {
  const { temperature = 0, topP = 1, minP = 0 } = params
  const { repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0 } = params
  floats.set(
    [temperature, topP, minP, repetitionPenalty, frequencyPenalty, presencePenalty],
    row * sampleFloats.count,
  )
  const {
    topK = 0,
    choice = 0,
    position = 0,
    historyLength = 0,
    promptLength = 0,
    numBias = 0,
    forcedId = -1,
  } = params
  const { seed: given = 0 } = params
  expectThat(
    typeof given === 'bigint' || Number.isSafeInteger(given),
    'sample',
    `seed is ${given}, expected an integer: a number up to 2^53 or a bigint`,
  )
  const [low, high] = wordsOf(given)
  ints.set(
    [topK, low, high, choice, position, historyLength, promptLength, numBias, forcedId],
    row * sampleInts.count,
  )
}

/** The 64 bits of a seed, as two 32-bit integers. */
function wordsOf(seed: number | bigint): [low: number, high: number] {
  // Without bigints where a number holds it: this runs for every token.
  if (typeof seed === 'number') return [seed | 0, Math.floor(seed / 2 ** 32) | 0]
  return [Number(BigInt.asIntN(32, seed)), Number(BigInt.asIntN(32, seed >> 32n))]
}

export interface Sampled {
  /** i32 [num_rows]; -1 where the logits held NaN or nothing finite */
  token: Tensor
  /** f32 [num_rows], of the token, under the logits as they came; unless `logprobs` is false */
  logprob?: Tensor
  /** i32 and f32 [num_rows, num_top], best first */
  topIds?: Tensor
  topLogprobs?: Tensor
}

/**
 * The next token of each row; native/ops/sample.h says in which order the options apply.
 * @param logits f32 [num_rows, vocab_size]
 * @param params rows made by writeSampleRow(); history i32 [num_rows, max_history] (prompt, then output), biasIds i32 and
 *   biasValues f32 [num_rows, max_bias]
 * @param options.vocabLimit ids from here on are never taken (default: none)
 * @param options.logprobs false: nobody asks how likely the tokens were, which saves an exponential per logit
 * @param options.token i32 [num_rows]: a tensor to write the tokens into, instead of a new one
 */
export function sample(
  p: Program,
  logits: TensorLike,
  params: {
    floats: TensorLike
    ints: TensorLike
    history?: TensorLike
    biasIds?: TensorLike
    biasValues?: TensorLike
  },
  options: { vocabLimit?: number; numTop?: number; logprobs?: boolean; token?: Tensor } = {},
): Sampled {
  const [numRows = 0, vocabSize = 0] = expectTensor('sample', 'logits', logits, 'f32', [
    'num_rows',
    'vocab_size',
  ])
  const { vocabLimit = vocabSize, numTop = 0, logprobs = true } = options
  expectTensor('sample', 'floats', params.floats, 'f32', [numRows, sampleFloats.count])
  expectTensor('sample', 'ints', params.ints, 'i32', [numRows, sampleInts.count])
  const optional = (name: string, value: TensorLike | undefined, dtype: 'i32' | 'f32'): number =>
    value ? expectTensor('sample', name, value, dtype, [numRows, 'max'])[1]! : 0
  const maxHistory = optional('history', params.history, 'i32')
  const maxBias = optional('bias_ids', params.biasIds, 'i32')
  expectThat(
    optional('bias_values', params.biasValues, 'f32') === maxBias,
    'sample',
    'bias_ids and bias_values must have one shape',
  )
  const use = (value: TensorLike | undefined): Tensor | undefined => value && p.use(value)
  const token = options.token ?? p.alloc('i32', [numRows])
  expectTensor('sample', 'token', token, 'i32', [numRows])
  const logprob = logprobs ? p.alloc('f32', [numRows]) : undefined
  const topIds = numTop > 0 ? p.alloc('i32', [numRows, numTop]) : undefined
  const topLogprobs = numTop > 0 ? p.alloc('f32', [numRows, numTop]) : undefined
  p.record(
    'sample',
    {
      logits: p.use(logits),
      floats: p.use(params.floats),
      ints: p.use(params.ints),
      history: use(params.history),
      biasIds: use(params.biasIds),
      biasValues: use(params.biasValues),
      token,
      logprob,
      topIds,
      topLogprobs,
    },
    { numRows, vocabSize, vocabLimit, maxHistory, maxBias, numTop },
  )
  return { token, logprob, topIds, topLogprobs }
}
