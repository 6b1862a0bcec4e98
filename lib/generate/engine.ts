// The loop: decides who runs next, runs one step for all of them, hands out the tokens. One step mixes sequences that
// decode with chunks of prompts; in dropless mode nobody's result depends on who else is in it.
//
// While a step runs, the next one is handed over already where that is possible: the tokens it continues are still on the
// device (SequenceStep.ids). So the device never waits for JavaScript, and an end that only the text shows costs one row
// of one step that nobody looks at (docs/adr/0033).
import { OpenMoeError } from '../errors.ts'
import type { KvCache } from '../model/kv_cache.ts'
import {
  type ExpertCapacity,
  MAX_FOLLOWED_ROWS,
  type ModelRunner,
  type SequenceStep,
  type StepResult,
} from '../model/runner.ts'
import { type FinishReason, type Request, Sequence, type TokenLogprob } from './request.ts'
import { needsHistory, samplingInputs } from './sampling.ts'

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

/** A step that was handed to the device. */
interface Step {
  turns: readonly Turn[]
  /** Who gets a token, in order of the rows. */
  sampled: readonly Sequence[]
  started: number
  /** Never rejects: an error may come while nobody waits for this step yet. */
  outcome: Promise<{ result: StepResult } | { error: unknown }>
}

export class Engine {
  private readonly runner: ModelRunner
  private readonly cache: KvCache
  private readonly options: Required<Omit<EngineOptions, 'onStep'>> & Pick<EngineOptions, 'onStep'>
  private readonly waiting: Sequence[] = []
  private running: Sequence[] = []
  private loop: Promise<void> | null = null
  private closed: OpenMoeError | null = null
  private lastEnd = 0

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
    let current: Step | null = null
    for (;;) {
      this.forget()
      this.admit()
      const next: Step | null = this.start(current)
      if (!current && !next) {
        this.loop = null // here, not when the promise settles: a request could come in between and wait for ever
        return
      }
      const failed: boolean = current !== null && !(await this.finish(current))
      if (failed && next) await this.takeBack(next)
      current = failed ? null : next
    }
  }

  /** Drops ended sequences. Their pages are free only when no step can be using them. */
  private forget(): void {
    const isOver = ({ done, stepsInFlight }: Sequence): boolean => done && stepsInFlight === 0
    for (const sequence of this.running) {
      if (isOver(sequence)) this.cache.release(sequence.pages!)
    }
    this.running = this.running.filter((sequence) => !isOver(sequence))
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
  private nextTurns(current: Step | null): Turn[] {
    let budget = this.options.prefillChunk
    const turns: Turn[] = []
    for (const sequence of this.running) {
      const { request, cached, sampled, isAwaited, done } = sequence
      if (done || sampled >= request.maxTokens) continue
      const left = request.prompt.length + sampled - cached
      // Under a capacity limit a prompt is one group: cut in chunks it would drop other tokens (spec 4.4).
      const whole = this.options.expertCapacity !== 'dropless' || left === 1
      const count = whole ? left : Math.min(left, budget)
      if (count === 0) continue
      if (left > 1) budget = Math.max(0, budget - count)
      turns.push({
        sequence,
        step: {
          ids: isAwaited ? [-1 - current!.sampled.indexOf(sequence)] : sequence.ids(cached, cached + count),
          position: cached,
          pages: sequence.pages!,
          logitRows: count === left ? [count - 1] : [],
        },
      })
    }
    return turns
  }

  /** Hands the next step to the device; null when there is none, or when it has to wait for what `current` brings. */
  private start(current: Step | null): Step | null {
    const turns = this.nextTurns(current)
    if (turns.length === 0 || (current && !canFollow(turns, current))) return null
    const sampled = turns.filter(({ step }) => step.logitRows.length > 0).map(({ sequence }) => sequence)
    const outcome = this.execute(turns, sampled).then(
      (result) => ({ result }),
      (error: unknown) => ({ error }),
    )
    for (const { sequence, step } of turns) {
      sequence.cached += step.ids.length
      sequence.sampled += step.logitRows.length
      sequence.stepsInFlight++
    }
    return { turns, sampled, started: performance.now(), outcome }
  }

  private async execute(turns: readonly Turn[], sampled: readonly Sequence[]): Promise<StepResult> {
    const { expertCapacity, vocabLimit, maxContext, taps } = this.options
    return this.runner.step(
      turns.map(({ step }) => step),
      {
        expertCapacity,
        taps,
        sampling: sampled.length > 0 ? samplingInputs(sampled, vocabLimit, maxContext) : undefined,
      },
    )
  }

  /** Waits for a step and hands out its tokens. False when it failed. */
  private async finish({ turns, sampled, started, outcome }: Step): Promise<boolean> {
    const ended = await outcome
    for (const { sequence } of turns) sequence.stepsInFlight--
    if ('error' in ended) {
      // A failed step cannot be blamed on one of its sequences: all of them end, the others go on.
      for (const { sequence } of turns) this.end(sequence, ended.error)
      return false
    }
    const now = performance.now()
    this.options.onStep?.(ended.result, now - Math.max(started, this.lastEnd))
    this.lastEnd = now
    sampled.forEach((sequence, row) => this.accept(sequence, row, sampled.length, ended.result))
    return true
  }

  /** Forgets a step that followed a failed one: what it made of sequences that still go on is made again. */
  private async takeBack({ turns, outcome }: Step): Promise<void> {
    await outcome
    for (const { sequence, step } of turns) {
      sequence.stepsInFlight--
      sequence.cached -= step.ids.length
      sequence.sampled -= step.logitRows.length
    }
  }

  private accept(sequence: Sequence, row: number, rows: number, result: StepResult): void {
    if (sequence.done) return // ended while the step ran
    const { request } = sequence
    const token = result.tokens![row]!
    sequence.output.push(token)
    const finishReason = finishReasonOf(sequence, token)
    try {
      const logprob = logprobOf(request.options.logprobs, row, rows, result)
      const event = { token, logprob, finishReason }
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

/**
 * Whether a step can be handed over before the tokens of `current` are known. Not one that holds a prompt: it would keep
 * requests that come meanwhile waiting for two steps.
 */
function canFollow(turns: readonly Turn[], current: Step): boolean {
  if (current.sampled.length > MAX_FOLLOWED_ROWS) return false
  return turns.every(
    ({ sequence, step }) => step.ids.length === 1 && !(sequence.isAwaited && needsHistory(sequence)),
  )
}

function logprobOf(
  wanted: number | undefined,
  row: number,
  rows: number,
  { tokens, logprobs, topIds, topLogprobs }: StepResult,
): TokenLogprob | undefined {
  if (wanted === undefined) return undefined
  const numTop = (topIds?.length ?? 0) / rows
  const top = Array.from({ length: Math.min(wanted, numTop) }, (_, i) => ({
    token: topIds![row * numTop + i]!,
    logprob: topLogprobs![row * numTop + i]!,
  })).filter(({ token }) => token >= 0)
  return { token: tokens![row]!, logprob: logprobs![row]!, top }
}

function finishReasonOf(sequence: Sequence, token: number): FinishReason | null {
  const { options, eosIds, endIds, maxTokens } = sequence.request
  if (!options.ignoreEos && (eosIds.includes(token) || sequence.endsWith(endIds))) return 'stop'
  return sequence.output.length >= maxTokens ? 'length' : null
}
