import type { Command } from 'commander'
import type { GenerateOptions } from '../generate/options.ts'
import { decimal, wholeNumber } from './model_options.ts'

// For reading pleasure; the library's own default is greedy.
const DEFAULTS = { temperature: 0.8, topP: 0.95, repetitionPenalty: 1.1 } as const

export type SamplingFlags = Omit<GenerateOptions, 'signal' | 'stop' | 'logitBias'> & { stop?: string[] }

export function withSamplingOptions(command: Command): Command {
  return command
    .option('--max-tokens <n>', 'new tokens at most', wholeNumber)
    .option('--temperature <t>', '0 = greedy', decimal, DEFAULTS.temperature)
    .option('--top-p <p>', 'smallest set of tokens with this probability', decimal, DEFAULTS.topP)
    .option('--top-k <k>', 'the k most likely tokens (0 = all)', wholeNumber)
    .option('--min-p <p>', 'at least this fraction of the most likely token', decimal)
    .option('--repetition-penalty <r>', '1 = none', decimal, DEFAULTS.repetitionPenalty)
    .option('--frequency-penalty <f>', 'per occurrence in the output', decimal)
    .option('--presence-penalty <f>', 'for tokens in the output', decimal)
    .option('--seed <n>', 'same seed, same text (default: random)', wholeNumber)
    .option('--stop <text...>', 'texts that end the generation')
    .option('--ignore-eos', 'go on after the end-of-sequence token')
}

/** The sampling part of a command's options. */
export function samplingOf(flags: SamplingFlags): GenerateOptions {
  const { maxTokens, temperature, topP, topK, minP, seed, stop, ignoreEos } = flags
  const { repetitionPenalty, frequencyPenalty, presencePenalty } = flags
  return {
    maxTokens,
    temperature,
    topP,
    topK,
    minP,
    repetitionPenalty,
    frequencyPenalty,
    presencePenalty,
    seed,
    stop,
    ignoreEos,
  }
}
