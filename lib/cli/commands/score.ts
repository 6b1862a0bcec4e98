import type { Command } from 'commander'
import { OpenMoeError } from '../../errors.ts'
import type { Model } from '../../model/model.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { loadFromOptions, type ModelOptions, positiveNumber, withModelOptions } from '../model_options.ts'
import { interruptSignal, note, printJson } from '../output.ts'
import { readTextFile } from '../text_file.ts'

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
    .option(
      '--window <n>',
      'tokens predicted at a time, each window after the start token',
      positiveNumber,
      512,
    )
    .option(
      '--max-windows <n>',
      'full windows per file at most, evenly spaced (default: all, and the rest of each document)',
      positiveNumber,
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

/**
 * Cuts each document, its end token included, into windows and scores each window after the start token. With
 * `maxWindows` only full windows count, and of more than that so many are taken at even distances, the first and the
 * last among them: the rule of openmoe-tiny's validation.json.
 */
export async function scoreFile(
  model: Model,
  file: string,
  options: { window: number; maxWindows?: number },
  signal?: AbortSignal,
): Promise<FileScore> {
  const { tokenizer, config } = model
  const total = { tokens: 0, bytes: 0, nats: 0 }
  for (const window of windowsOf(tokenizer, config.eosTokenId, await readTextFile(file), options)) {
    const { logprobs } = await model.score([config.bosTokenId, ...window], { signal })
    total.tokens += window.length
    total.bytes += Buffer.byteLength(tokenizer.decode(window))
    total.nats -= logprobs.reduce((sum, logprob) => sum + logprob, 0)
  }
  if (total.tokens === 0) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${file} has nothing to score${options.maxWindows ? `: no document has ${options.window} tokens. Pass a smaller --window` : ''}.`,
    )
  }
  return {
    file,
    tokens: total.tokens,
    bytes: total.bytes,
    natsPerToken: total.nats / total.tokens,
    bitsPerByte: total.nats / Math.LN2 / total.bytes,
  }
}

function windowsOf(
  tokenizer: Tokenizer,
  eosTokenId: number,
  text: string,
  { window, maxWindows }: { window: number; maxWindows?: number },
): number[][] {
  const windows: number[][] = []
  for (const document of text.split('\f')) {
    if (document.trim() === '') continue
    const ids = [...tokenizer.encode(document, { addSpecial: false }), eosTokenId]
    for (let start = 0; start < ids.length; start += window) windows.push(ids.slice(start, start + window))
  }
  if (maxWindows === undefined) return windows
  const full = windows.filter((ids) => ids.length === window)
  if (full.length <= maxWindows) return full
  const step = maxWindows > 1 ? (full.length - 1) / (maxWindows - 1) : 0
  return Array.from({ length: maxWindows }, (_, i) => full[Math.round(i * step)]!)
}
