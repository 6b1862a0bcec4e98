import { type CheckedOptions } from './options.ts'

export type FinishReason = 'stop' | 'length'

export interface TokenLogprob {
  token: number
  logprob: number
  /** The most likely tokens at this step, best first, as many as `logprobs` asked for. */
  top: { token: number; logprob: number }[]
}

/** What the engine reports after every step that gave a request a token. */
export interface TokenEvent {
  token: number
  /** Where the request asked for it. */
  logprob?: TokenLogprob
  finishReason: FinishReason | null
}

/** One sequence on its way through the engine. */
export interface Request {
  readonly prompt: Int32Array
  readonly maxTokens: number
  readonly options: CheckedOptions
  /** Ids that end the sequence when generated. */
  readonly eosIds: readonly number[]
  /** An id sequence after which the sequence ends as well (spec section 5). */
  readonly endIds: readonly number[]
  /** Called for every token; returns true to end the sequence (a stop string was completed). */
  onToken(event: TokenEvent): boolean
  /** Called once, last: without error when the sequence ended by itself. */
  onEnd(error?: unknown): void
}

/** A request's state in the engine. */
export class Sequence {
  readonly request: Request
  readonly output: number[] = []
  pages: Int32Array | null = null
  /** Tokens whose keys and values are cached once the steps in flight are done. */
  cached = 0
  /** Tokens that were sampled once the steps in flight are done: those of `output`, and the one still awaited. */
  sampled = 0
  stepsInFlight = 0
  done = false
  constructor(request: Request) {
    this.request = request
  }

  /** Whether its last token is still on the device. */
  get isAwaited(): boolean {
    return this.sampled > this.output.length
  }

  get length(): number {
    return this.request.prompt.length + this.output.length
  }

  /** Ids [start, end) of prompt and output. */
  ids(start: number, end: number): Int32Array {
    const { prompt } = this.request
    const result = new Int32Array(end - start)
    for (let i = start; i < end; i++) {
      result[i - start] = i < prompt.length ? prompt[i]! : this.output[i - prompt.length]!
    }
    return result
  }

  /** Whether the whole sequence, prompt included, ends with `tail`. */
  endsWith(tail: readonly number[]): boolean {
    if (tail.length === 0 || this.length < tail.length) return false
    const end = this.ids(this.length - tail.length, this.length)
    return tail.every((id, i) => id === end[i])
  }
}
