// The loop: decides who runs next, runs one step for all of them, hands out the tokens. One step mixes sequences that
// decode with chunks of prompts; in dropless mode nobody's result depends on who else is in it.
import { OpenMoeError } from '../errors.ts'
import type { KvCache } from '../model/kv_cache.ts'
import type { ExpertCapacity, ModelRunner, SequenceStep, StepResult } from '../model/runner.ts'
import { type FinishReason, type Request, Sequence } from './request.ts'
import { samplingInputs } from './sampling.ts'

export interface EngineOptions {
  expertCapacity: ExpertCapacity
  maxContext: number
  /** Ids from here on name no token and are never sampled. */
  vocabLimit: number
  /** Prompt tokens in one step at most: an abort is noticed, and others get a token, between two chunks. */
  prefillChunk?: number
  /** Sequences in one step at most. */
  maxBatch?: number
  /** Observes every step's taps. */
  onStep?: (result: StepResult, milliseconds: number) => void
  taps?: readonly string[]
}

interface Turn {
  sequence: Sequence
  step: SequenceStep
}

export class Engine {
  private readonly runner: ModelRunner
  private readonly cache: KvCache
  private readonly options: Required<Omit<EngineOptions, 'onStep'>> & Pick<EngineOptions, 'onStep'>
  private readonly waiting: Sequence[] = []
  private running: Sequence[] = []
  private loop: Promise<void> | null = null
  private closed: OpenMoeError | null = null

  constructor(runner: ModelRunner, cache: KvCache, options: EngineOptions) {
    this.runner = runner
    this.cache = cache
    this.options = { prefillChunk: 512, maxBatch: 64, taps: [], ...options }
  }

  /** Sequences waiting and running. */
  get queue(): { waiting: number; running: number } {
    return { waiting: this.waiting.length, running: this.running.length }
  }

  /** Queues a request; its `onEnd` is always called once. Returns a function that ends it early, with a reason. */
  submit(request: Request): (reason: unknown) => void {
    const sequence = new Sequence(request)
    const cancel = (reason: unknown): void => this.end(sequence, reason)
    if (this.closed) {
      queueMicrotask(() => cancel(this.closed))
      return cancel
    }
    this.waiting.push(sequence)
    this.loop ??= this.run()
    return cancel
  }

  /** Ends every request with `error` and refuses new ones. Resolves when no step is in flight. */
  async close(error: OpenMoeError): Promise<void> {
    this.closed = error
    for (const sequence of [...this.waiting, ...this.running]) this.end(sequence, error)
    await this.loop
  }

  private async run(): Promise<void> {
    await Promise.resolve() // requests submitted together start together
    for (;;) {
      this.forget()
      this.admit()
      const turns = this.nextTurns()
      if (turns.length === 0) {
        this.loop = null // here, not when the promise settles: a request could come in between and wait for ever
        return
      }
      try {
        await this.step(turns)
      } catch (error) {
        // A failed step cannot be blamed on one of its sequences: all of them end, the others go on.
        for (const { sequence } of turns) this.end(sequence, error)
      }
    }
  }

  /** Drops ended sequences. Their pages are free only now: until here a step might have been using them. */
  private forget(): void {
    for (const sequence of this.running) {
      if (!sequence.done || !sequence.pages) continue
      this.cache.release(sequence.pages)
      sequence.pages = null
    }
    this.running = this.running.filter((sequence) => !sequence.done)
    const waiting = this.waiting.filter((sequence) => !sequence.done)
    this.waiting.splice(0, this.waiting.length, ...waiting)
  }

  /** First come, first served: who waits for pages is not overtaken by a smaller request. */
  private admit(): void {
    // With one capacity group for the whole step, neighbours would change each other's results.
    const limit = this.options.expertCapacity === 'batch' ? 1 : this.options.maxBatch
    while (this.waiting.length > 0 && this.running.length < limit) {
      const sequence = this.waiting[0]!
      const pages = this.cache.reserve(sequence.request.prompt.length + sequence.request.maxTokens)
      if (!pages) return
      sequence.pages = pages
      this.running.push(sequence)
      this.waiting.shift()
    }
  }

  /** Everyone who decodes gets a row; prompts share the chunk, in order of arrival. */
  private nextTurns(): Turn[] {
    let budget = this.options.prefillChunk
    const turns: Turn[] = []
    for (const sequence of this.running) {
      const left = sequence.length - sequence.cached
      // Under a capacity limit a prompt is one group: cut in chunks it would drop other tokens (spec 4.4).
      const whole = this.options.expertCapacity !== 'dropless' || left === 1
      const count = whole ? left : Math.min(left, budget)
      if (count === 0) continue
      if (left > 1) budget = Math.max(0, budget - count)
      const end = sequence.cached + count
      turns.push({
        sequence,
        step: {
          ids: sequence.ids(sequence.cached, end),
          position: sequence.cached,
          pages: sequence.pages!,
          logitRows: end === sequence.length ? [count - 1] : [],
        },
      })
    }
    return turns
  }

  private async step(turns: readonly Turn[]): Promise<void> {
    const { expertCapacity, vocabLimit, maxContext, taps, onStep } = this.options
    const sampled = turns.filter(({ step }) => step.logitRows.length > 0).map(({ sequence }) => sequence)
    const started = performance.now()
    const result = await this.runner.step(
      turns.map(({ step }) => step),
      {
        expertCapacity,
        taps,
        sampling: sampled.length > 0 ? samplingInputs(sampled, vocabLimit, maxContext) : undefined,
      },
    )
    onStep?.(result, performance.now() - started)
    for (const { sequence, step } of turns) sequence.cached += step.ids.length
    sampled.forEach((sequence, row) => this.accept(sequence, row, sampled.length, result))
  }

  private accept(sequence: Sequence, row: number, rows: number, result: StepResult): void {
    if (sequence.done) return // ended while the step ran
    const { request } = sequence
    const token = result.tokens![row]!
    sequence.output.push(token)
    const numTop = (result.topIds?.length ?? 0) / rows
    const wanted = Math.min(request.options.logprobs ?? 0, numTop)
    const top = Array.from({ length: wanted }, (_, i) => ({
      token: result.topIds![row * numTop + i]!,
      logprob: result.topLogprobs![row * numTop + i]!,
    })).filter(({ token: id }) => id >= 0)
    const finishReason = finishReasonOf(sequence, token)
    try {
      const event = { token, logprob: { token, logprob: result.logprobs![row]!, top }, finishReason }
      if (request.onToken(event) || finishReason) this.end(sequence)
    } catch (error) {
      this.end(sequence, error)
    }
  }

  private end(sequence: Sequence, error?: unknown): void {
    if (sequence.done) return
    sequence.done = true
    sequence.request.onEnd(error)
  }
}

function finishReasonOf(sequence: Sequence, token: number): FinishReason | null {
  const { options, eosIds, endIds, maxTokens } = sequence.request
  if (!options.ignoreEos && (eosIds.includes(token) || sequence.endsWith(endIds))) return 'stop'
  return sequence.output.length >= maxTokens ? 'length' : null
}
