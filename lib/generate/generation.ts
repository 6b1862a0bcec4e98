// One request as its caller sees it: a stream of text, and the result at its end.
import { OpenMoeError } from '../errors.ts'
import type { Engine } from './engine.ts'
import type { CheckedOptions } from './options.ts'
import type { FinishReason, TokenLogprob } from './request.ts'
import { type CharacterDecoder, TextStream } from './text_stream.ts'

export interface GenerateResult {
  /** The new text, without prompt and stop string. */
  text: string
  /** The new token ids, the end-of-sequence token included when it was generated. */
  tokens: number[]
  finishReason: FinishReason
  usage: { promptTokens: number; completionTokens: number; totalTokens: number }
  /** Per token, when `logprobs` was given. */
  logprobs?: TokenLogprob[]
  timings: {
    /** Until the first token, waiting included. */
    firstTokenMs: number
    totalMs: number
    /** Tokens per second after the first. */
    tokensPerSecond: number
  }
  seed: number
}

export interface StreamChunk {
  /** Whole characters only; may be empty for a token inside a character. */
  text: string
  tokens: number[]
  logprobs?: TokenLogprob[]
}

export interface GenerationRequest {
  prompt: Int32Array
  maxTokens: number
  options: CheckedOptions
  eosIds: readonly number[]
  endIds: readonly number[]
  /** Stop strings of the model besides the caller's. */
  stops: readonly string[]
  /** Absent without a tokenizer: then there are ids, but no text. */
  decoder: CharacterDecoder | undefined
}

const NO_TEXT: CharacterDecoder = { push: () => '', flush: () => '' }

/** `for await` gives the chunks; `result` the whole. Ending the loop early ends the generation. Single consumer. */
export class Generation implements AsyncIterable<StreamChunk> {
  /** Rejects as the iteration does. */
  readonly result: Promise<GenerateResult>
  private readonly chunks: StreamChunk[] = []
  private ended = false
  private error: unknown
  private wake: (() => void) | null = null
  private cancel: (reason: unknown) => void = () => undefined

  constructor(engine: Engine, request: GenerationRequest) {
    this.result = new Promise((resolve, reject) => {
      this.start(engine, request, resolve, reject)
    })
    // Whoever only iterates sees the error there.
    this.result.catch(() => undefined)
  }

  private start(
    engine: Engine,
    request: GenerationRequest,
    resolve: (result: GenerateResult) => void,
    reject: (error: unknown) => void,
  ): void {
    const { prompt, options, decoder } = request
    const wantLogprobs = options.logprobs !== undefined
    const stream = new TextStream(decoder ?? NO_TEXT, [...options.stop, ...request.stops])
    const tokens: number[] = []
    const logprobs: TokenLogprob[] = []
    const started = performance.now()
    let firstTokenMs = 0
    let text = ''
    let finishReason: FinishReason = 'length'
    const push = (chunk: StreamChunk): void => {
      text += chunk.text
      this.chunks.push(chunk)
      this.wake?.()
    }
    const { signal } = options
    const onAbort = (): void => this.cancel(signal!.reason)

    this.cancel = engine.submit({
      ...request,
      onToken: (event) => {
        if (tokens.length === 0) firstTokenMs = performance.now() - started
        tokens.push(event.token)
        if (event.logprob) logprobs.push(event.logprob)
        const shown = stream.push(event.token)
        if (shown.stopped) finishReason = 'stop'
        else if (event.finishReason) finishReason = event.finishReason
        push({ text: shown.text, tokens: [event.token], ...(event.logprob && { logprobs: [event.logprob] }) })
        return shown.stopped
      },
      onEnd: (error) => {
        signal?.removeEventListener('abort', onAbort)
        this.ended = true
        this.error = error
        if (error !== undefined) {
          this.wake?.()
          reject(error)
          return
        }
        const rest = stream.finish()
        if (rest.stopped) finishReason = 'stop'
        if (rest.text) push({ text: rest.text, tokens: [] })
        this.wake?.()
        const totalMs = performance.now() - started
        resolve({
          text,
          tokens,
          finishReason,
          usage: {
            promptTokens: prompt.length,
            completionTokens: tokens.length,
            totalTokens: prompt.length + tokens.length,
          },
          ...(wantLogprobs && { logprobs }),
          timings: {
            firstTokenMs,
            totalMs,
            tokensPerSecond: tokens.length > 1 ? ((tokens.length - 1) * 1000) / (totalMs - firstTokenMs) : 0,
          },
          seed: options.seed,
        })
      },
    })
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort, { once: true })
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StreamChunk, void, undefined> {
    try {
      for (;;) {
        while (this.chunks.length > 0) yield this.chunks.shift()!
        if (this.ended) break
        await new Promise<void>((resolve) => {
          this.wake = resolve
        })
      }
      if (this.error !== undefined) throw this.error
    } finally {
      if (!this.ended) this.cancel(new OpenMoeError('ERR_OPENMOE_ABORTED', 'The stream was left early.'))
    }
  }
}
