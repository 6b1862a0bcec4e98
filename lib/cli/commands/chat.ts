import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import pc from 'picocolors'
import type { ChatMessage } from '../../generate/chat_template.ts'
import { loadFromOptions, type ModelOptions, withModelOptions } from '../model_options.ts'
import { note } from '../output.ts'
import { samplingOf, type SamplingFlags, withSamplingOptions } from '../sampling_options.ts'
import { summary } from './generate.ts'

export function addChat(program: Command): void {
  const command = program
    .command('chat')
    .description('talk to a model, turn by turn; an empty line or Ctrl-D ends it')
  withSamplingOptions(withModelOptions(command))
    .option('--system <text>', 'system message (default: the one of the released chat model)')
    .action(async (options: ModelOptions & SamplingFlags & { system?: string }) => {
      const model = await loadFromOptions(options)
      const input = createInterface({ input: process.stdin, output: process.stderr })
      const messages: ChatMessage[] = options.system ? [{ role: 'system', content: options.system }] : []
      let answering: AbortController | null = null
      // Ctrl-C stops an answer; between answers it ends the conversation.
      input.on('SIGINT', () => (answering ? answering.abort() : input.close()))
      try {
        input.setPrompt(pc.bold('> '))
        input.prompt()
        for await (const line of input) {
          if (line.trim() === '') break
          messages.push({ role: 'user', content: line })
          answering = new AbortController()
          const generation = model.streamChat(messages, { ...samplingOf(options), signal: answering.signal })
          let answer = ''
          try {
            for await (const { text } of generation) {
              process.stdout.write(text)
              answer += text
            }
            note(pc.dim(`\n${summary(await generation.result)}`))
          } catch (error) {
            if (!answering.signal.aborted) throw error
            note(pc.dim('\n(stopped)'))
          }
          messages.push({ role: 'assistant', content: answer.trim() })
          answering = null
          input.prompt()
        }
      } finally {
        input.close()
        await model.dispose()
      }
    })
}
