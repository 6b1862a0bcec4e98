import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import type { Model } from '../../model/model.ts'
import { loadFromOptions, type ModelOptions, wholeNumber, withModelOptions } from '../model_options.ts'
import { interruptSignal, note, printJson } from '../output.ts'

export interface FileScore {
  file: string
  tokens: number
  bytes: number
  natsPerToken: number
  bitsPerByte: number
}

export function addScore(program: Command): void {
  const command = program
    .command('score')
    .description('how well a model predicts text files: nats per token and bits per byte')
    .argument('<file...>', 'UTF-8 text files; a form feed separates documents')
    .option('--window <n>', 'tokens predicted at a time, each window after the start token', wholeNumber, 512)
    .option(
      '--max-windows <n>',
      'full windows per file at most (default: all, and the rest of each document)',
      wholeNumber,
    )
  withModelOptions(command)
    .option('--json', 'print one JSON value')
    .action(
      async (
        files: string[],
        options: ModelOptions & { window: number; maxWindows?: number; json?: boolean },
      ) => {
        const signal = interruptSignal()
        const model = await loadFromOptions(options, signal)
        try {
          const scores: FileScore[] = []
          for (const file of files) {
            const score = await scoreFile(model, file, options, signal)
            scores.push(score)
            if (!options.json) {
              process.stdout.write(
                `${file}: ${score.natsPerToken.toFixed(4)} nats/token, ${score.bitsPerByte.toFixed(4)} bits/byte ` +
                  `(${score.tokens} tokens)\n`,
              )
            } else note(`scored ${file}`)
          }
          if (options.json) printJson(scores)
        } finally {
          await model.dispose()
        }
      },
    )
}

/** Cuts each document into windows, and scores each window after the start token, the end token included. */
export async function scoreFile(
  model: Model,
  file: string,
  options: { window: number; maxWindows?: number },
  signal?: AbortSignal,
): Promise<FileScore> {
  const { tokenizer, config } = model
  const total = { tokens: 0, bytes: 0, nats: 0 }
  let windows = 0
  for (const document of (await readFile(file, 'utf8')).split('\f')) {
    if (document.trim() === '') continue
    const ids = [...tokenizer.encode(document, { addSpecial: false }), config.eosTokenId]
    for (let start = 0; start < ids.length; start += options.window) {
      if (options.maxWindows !== undefined) {
        if (windows === options.maxWindows) break
        if (start + options.window > ids.length) continue
      }
      const targets = ids.slice(start, start + options.window)
      const { logprobs } = await model.score([config.bosTokenId, ...targets], { signal })
      windows++
      total.tokens += targets.length
      total.bytes += Buffer.byteLength(tokenizer.decode(targets))
      total.nats -= logprobs.reduce((sum, logprob) => sum + logprob, 0)
    }
  }
  return {
    file,
    tokens: total.tokens,
    bytes: total.bytes,
    natsPerToken: total.nats / total.tokens,
    bitsPerByte: total.nats / Math.LN2 / total.bytes,
  }
}
