// The real engine over a model that says what the test wants, one step when the test wants it.
import type { Device } from '../../lib/device.ts'
import { Engine, type EngineOptions } from '../../lib/generate/engine.ts'
import { Generation } from '../../lib/generate/generation.ts'
import { checkOptions, type GenerateOptions } from '../../lib/generate/options.ts'
import type { CharacterDecoder } from '../../lib/generate/text_stream.ts'
import { KvCache, PAGE_TOKENS } from '../../lib/model/kv_cache.ts'
import type { ModelRunner, SequenceStep, StepOptions, StepResult } from '../../lib/model/runner.ts'

export const EOS = 1

/** Token i of the text is `pieces[i]`. */
export function pieceDecoder(pieces: readonly string[]): CharacterDecoder {
  return { push: (id) => pieces[id] ?? '', flush: () => '' }
}

interface ScriptedOptions extends Partial<EngineOptions> {
  numPages?: number
}

export class ScriptedEngine {
  readonly cache: KvCache
  readonly engine: Engine
  /** Rows of each step, in order. */
  readonly steps: { rows: number; sequences: number; sampled: number }[] = []
  /** The ids that each step was given. */
  readonly ids: number[][] = []
  /** Called at the start of each step with its number, from 1. */
  onStep: (step: number) => void = () => undefined
  /** Thrown by the steps that are handed over from then on. */
  failure: Error | undefined
  private readonly scripts: { tokens: readonly number[]; promptLength: number }[] = []
  /** Which script the sequence has whose first page is the key. */
  private readonly running = new Map<number, number>()
  private gate: Promise<void> = Promise.resolve()
  /** Settles with the last step: like a device, one runs after the other. */
  private last: Promise<unknown> = Promise.resolve()

  constructor({ numPages = 64, ...options }: ScriptedOptions = {}) {
    const device = { empty: () => ({}), free: () => undefined } as unknown as Device
    this.cache = new KvCache(device, { numLayers: 1, numKvHeads: 1, headDim: 1, dtype: 'f32', numPages })
    const runner = { step: (turns: SequenceStep[], step: StepOptions) => this.step(turns, step) }
    this.engine = new Engine(runner as unknown as ModelRunner, this.cache, {
      expertCapacity: 'dropless',
      maxContext: numPages * PAGE_TOKENS,
      vocabLimit: 1000,
      ...options,
    })
  }

  /** Steps wait until the function it returns is called. */
  hold(): () => void {
    let release = (): void => undefined
    this.gate = new Promise((resolve) => (release = resolve))
    return release
  }

  /** A request whose tokens are given; after them the end token comes for ever. */
  request(
    script: readonly number[],
    options: GenerateOptions = {},
    extra: {
      promptLength?: number
      pieces?: readonly string[]
      stops?: readonly string[]
      endIds?: readonly number[]
    } = {},
  ): Generation {
    const { promptLength = 4, pieces = [], stops = [], endIds = [] } = extra
    // The prompt says which script: a request that is aborted early never starts.
    const index = this.scripts.push({ tokens: script, promptLength }) - 1
    return new Generation(this.engine, {
      prompt: new Int32Array(promptLength).fill(index),
      maxTokens: options.maxTokens ?? script.length + 1,
      options: checkOptions(options, 1000),
      eosIds: [EOS],
      endIds,
      stops,
      decoder: pieceDecoder(pieces),
    })
  }

  private async step(turns: readonly SequenceStep[], { sampling }: StepOptions): Promise<StepResult> {
    const sampled = turns.filter(({ logitRows }) => logitRows.length > 0)
    this.steps.push({
      rows: turns.reduce((sum, { ids }) => sum + ids.length, 0),
      sequences: turns.length,
      sampled: sampled.length,
    })
    this.ids.push(turns.flatMap(({ ids }) => Array.from(ids)))
    for (const { ids, position, pages } of turns) if (position === 0) this.running.set(pages[0]!, ids[0]!)
    this.onStep(this.steps.length)
    const { failure, last } = this
    const run = (async () => {
      await Promise.all([last, this.gate])
      if (failure) throw failure
    })()
    this.last = run.catch(() => undefined)
    await run
    const tokens = sampled.map(({ ids, position, pages }) => {
      const { tokens, promptLength } = this.scripts[this.running.get(pages[0]!)!]!
      return tokens[position + ids.length - promptLength] ?? EOS
    })
    return {
      taps: new Map(),
      capacityPerGroup: [],
      ...(sampling && { tokens: Int32Array.from(tokens), logprobs: new Float32Array(tokens.length) }),
    }
  }
}

/** Whether no sequence has pages any more. */
export const free = (scripted: ScriptedEngine): boolean => scripted.cache.bytes.used === 0

/** What a promise has been settled with by the next turn of the event loop, or 'no'. */
export const settled = (promise: Promise<unknown>): Promise<unknown> =>
  Promise.race([promise, new Promise((resolve) => setImmediate(resolve, 'no'))])
