import type { Command } from 'commander'
import pc from 'picocolors'
import type { GenerateResult } from '../../generate/generation.ts'
import { loadFromOptions, type ModelOptions, withModelOptions } from '../model_options.ts'
import { interruptSignal, note, printJson } from '../output.ts'
import { samplingOf, type SamplingFlags, withSamplingOptions } from '../sampling_options.ts'

export function addGenerate(program: Command): void {
  const command = program
    .command('generate')
    .description('continue a text, streaming it to stdout')
    .argument('[prompt]', 'text to continue', 'It was a dark night, and')
  withSamplingOptions(withModelOptions(command))
    .option('--json', 'print one JSON value instead of streaming')
    .action(async (prompt: string, options: ModelOptions & SamplingFlags & { json?: boolean }) => {
      const signal = interruptSignal()
      const model = await loadFromOptions(options, signal)
      try {
        const generation = model.stream(prompt, { ...samplingOf(options), signal })
        if (options.json) {
          printJson({ prompt, ...(await generation.result) })
          return
        }
        process.stdout.write(pc.dim(prompt))
        for await (const { text } of generation) process.stdout.write(text)
        process.stdout.write('\n')
        note(pc.dim(summary(await generation.result)))
      } finally {
        await model.dispose()
      }
    })
}

export function summary({ usage, timings, finishReason, seed }: GenerateResult): string {
  return (
    `${usage.completionTokens} tokens, ${timings.tokensPerSecond.toFixed(1)} tokens/s, ` +
    `first after ${timings.firstTokenMs.toFixed(0)} ms (${finishReason}, seed ${seed})`
  )
}
