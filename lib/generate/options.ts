import { OpenMoeError } from '../errors.ts'

export interface SamplingOptions {
  /** 0 (default) takes the most likely token; 1 draws from the model's own distribution. */
  temperature?: number
  /** Draw from the smallest set of tokens whose probability reaches this. Default 1: all. */
  topP?: number
  /** Draw from the k most likely tokens. Default 0: all. */
  topK?: number
  /** Drop tokens less likely than this fraction of the most likely one. Default 0. */
  minP?: number
  /** Divides positive (multiplies negative) logits of tokens of the prompt and the output. Default 1. */
  repetitionPenalty?: number
  /** Subtracted once per occurrence in the output. Default 0. */
  frequencyPenalty?: number
  /** Subtracted for tokens that occur in the output. Default 0. */
  presencePenalty?: number
  /** Added to the logits of these token ids, -100 to 100. */
  logitBias?: Readonly<Record<number, number>>
  /** Same seed, prompt and options: same tokens, whatever else runs. Default: random, reported in the result. */
  seed?: number
}

export interface GenerateOptions extends SamplingOptions {
  /** New tokens at most. Default 256, or what is left of the context. */
  maxTokens?: number
  /** Texts that end the generation; they are not part of the result. */
  stop?: string | readonly string[]
  /** Report this many alternatives for every token (0: only the token's own log-probability). */
  logprobs?: number
  /** Go on after the end-of-sequence token (benchmarks). */
  ignoreEos?: boolean
  /** Rejects with `signal.reason` before the next token, also while waiting or in a long prompt. */
  signal?: AbortSignal
}

export type CheckedOptions = Required<Omit<GenerateOptions, 'signal' | 'logprobs' | 'maxTokens'>> & {
  stop: readonly string[]
  maxTokens: number | undefined
  logprobs: number | undefined
  signal: AbortSignal | undefined
}

const MAX_LOGPROBS = 20
const MAX_BIASES = 1024
const MAX_STOPS = 16

/** Checks every option and fills in the defaults. @throws OpenMoeError ERR_OPENMOE_INVALID_ARG */
export function checkOptions(options: GenerateOptions, vocabSize: number): CheckedOptions {
  if (typeof options !== 'object' || options === null) throw invalid('options', 'must be an object')
  const known = new Set(Object.keys(RANGES).concat('logitBias', 'stop', 'signal', 'ignoreEos'))
  for (const name of Object.keys(options)) {
    if (!known.has(name)) throw invalid(name, `is no option. Known: ${[...known].join(', ')}`)
  }
  const checked = Object.fromEntries(
    Object.entries(RANGES).map(([name, [min, max, whole, otherwise]]) => {
      const value = options[name as keyof typeof RANGES] ?? otherwise
      if (value === undefined) return [name, value]
      const valid =
        typeof value === 'number' && value >= min && value <= max && (!whole || Number.isInteger(value))
      if (!valid)
        throw invalid(
          name,
          `is ${String(value)}, expected ${whole ? 'an integer' : 'a number'} from ${min} to ${max}`,
        )
      return [name, value]
    }),
  ) as Pick<CheckedOptions, keyof typeof RANGES>
  const { ignoreEos = false, signal } = options
  if (typeof ignoreEos !== 'boolean')
    throw invalid('ignoreEos', `is ${String(ignoreEos)}, expected true or false`)
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw invalid('signal', 'is no AbortSignal; pass controller.signal')
  }
  return {
    ...checked,
    seed: checked.seed ?? Math.floor(Math.random() * 2 ** 53),
    logitBias: checkBias(options.logitBias ?? {}, vocabSize),
    stop: checkStop(options.stop ?? []),
    ignoreEos,
    signal,
  }
}

// min, max, whole number, default
const RANGES = {
  temperature: [0, 100, false, 0],
  topP: [0, 1, false, 1],
  topK: [0, 2 ** 31 - 1, true, 0],
  minP: [0, 1, false, 0],
  repetitionPenalty: [0.01, 100, false, 1],
  frequencyPenalty: [-100, 100, false, 0],
  presencePenalty: [-100, 100, false, 0],
  seed: [0, Number.MAX_SAFE_INTEGER, true, undefined],
  maxTokens: [1, 2 ** 31 - 1, true, undefined],
  logprobs: [0, MAX_LOGPROBS, true, undefined],
} as const

function checkStop(stop: unknown): readonly string[] {
  const list: unknown[] = typeof stop === 'string' ? [stop] : Array.isArray(stop) ? stop : [undefined]
  if (!list.every((text) => typeof text === 'string' && text.length > 0) || list.length > MAX_STOPS) {
    throw invalid('stop', `must be a non-empty text or up to ${MAX_STOPS} of them`)
  }
  return list as string[]
}

function checkBias(
  bias: Readonly<Record<number, number>>,
  vocabSize: number,
): Readonly<Record<number, number>> {
  const entries = Object.entries(bias)
  if (entries.length > MAX_BIASES)
    throw invalid('logitBias', `has ${entries.length} entries, at most ${MAX_BIASES}`)
  for (const [id, value] of entries) {
    const valid =
      /^\d+$/.test(id) && Number(id) < vocabSize && typeof value === 'number' && Math.abs(value) <= 100
    if (!valid)
      throw invalid(
        'logitBias',
        `has ${id}: ${String(value)}, expected token ids below ${vocabSize} with -100 to 100`,
      )
  }
  return bias
}

const invalid = (name: string, problem: string): OpenMoeError =>
  new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${name} ${problem}.`)
