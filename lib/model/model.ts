import type { Device, DeviceOptions } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import { type ChatMessage, renderChat } from '../generate/chat_template.ts'
import { Engine } from '../generate/engine.ts'
import { Generation, type GenerateResult } from '../generate/generation.ts'
import { checkOptions, type GenerateOptions } from '../generate/options.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { OpenMoeConfig } from './config.ts'
import { checkIds, checkSequences, forward, type ForwardOptions, type ForwardResult } from './forward.ts'
import { KvCache, PAGE_TOKENS } from './kv_cache.ts'
import { type ExpertCapacity, EXPERT_CAPACITIES, ModelRunner, type StepResult } from './runner.ts'
import { score, type ScoreResult } from './score.ts'
import { type ModelStats, routingTaps, RoutingStatistics } from './statistics.ts'
import type { LoadProgress, ModelWeights, WeightDtype } from './weights.ts'

export interface LoadModelOptions extends DeviceOptions {
  /** 'auto' (default) is a GPU when one can be used, else the CPU. */
  device?: string
  /** Dtype of the weights in memory; 'auto' (default) is bf16. Norms and routers are always f32. */
  dtype?: 'auto' | WeightDtype
  /** Whether experts have a limited number of slots (spec 4.4). Default 'dropless', whatever the config says. */
  expertCapacity?: ExpertCapacity
  /** Longest sequence; default and upper limit: the config's max_position_embeddings. */
  maxContext?: number
  /** Sequences that may run at once; their cache is reserved, but only touched when used. Default 16. */
  maxSequences?: number
  onProgress?: (progress: LoadProgress) => void
  signal?: AbortSignal
}

export interface ModelParts {
  device: Device
  config: OpenMoeConfig
  weights: ModelWeights
  dtype: WeightDtype
  tokenizer: Tokenizer | undefined
  /** What was odd about the checkpoint, in sentences. */
  warnings: readonly string[]
}

// The chat model writes its end as three ordinary tokens (spec section 5); which ids, depends on the tokenizer.
const END_TEXT = '</s>'
const END_PIECES = [
  [15501, '\u2581</'],
  [281, 's'],
  [926, '>'],
] as const

/** A checkpoint on a device. Made by `loadModel()`. */
export class Model {
  readonly config: OpenMoeConfig
  readonly dtype: WeightDtype
  readonly expertCapacity: ExpertCapacity
  readonly maxContext: number
  readonly warnings: readonly string[]
  private readonly device: Device
  private readonly weights: ModelWeights
  private readonly cache: KvCache
  private readonly runner: ModelRunner
  private readonly engine: Engine
  private readonly parts: ModelParts
  private readonly routing: RoutingStatistics
  private readonly counts = { finished: 0, prompt: 0, generated: 0, steps: 0, milliseconds: 0 }
  private disposing: Promise<void> | null = null

  /** Use `loadModel()`. */
  constructor(parts: ModelParts, options: LoadModelOptions = {}) {
    this.parts = parts
    const { device, config, weights } = parts
    this.device = device
    this.config = config
    this.weights = weights
    this.dtype = parts.dtype
    this.warnings = parts.warnings
    this.expertCapacity = options.expertCapacity ?? 'dropless'
    this.maxContext = options.maxContext ?? config.maxPositionEmbeddings
    const maxSequences = options.maxSequences ?? 16
    this.cache = new KvCache(device, {
      numLayers: config.numHiddenLayers,
      numKvHeads: config.numKeyValueHeads,
      headDim: config.headDim,
      dtype: this.kvDtype,
      numPages: maxSequences * Math.ceil(this.maxContext / PAGE_TOKENS),
    })
    this.routing = new RoutingStatistics(config.numExperts)
    this.runner = new ModelRunner(device, config, weights, this.cache)
    this.engine = new Engine(this.runner, this.cache, {
      expertCapacity: this.expertCapacity,
      maxContext: this.maxContext,
      vocabLimit: Math.min(config.vocabSize, parts.tokenizer?.vocabSize ?? config.vocabSize),
      maxBatch: maxSequences,
      taps: routingTaps(this.expertCapacity !== 'dropless'),
      onStep: (result, milliseconds) => this.count(result, milliseconds),
    })
  }

  /** @throws OpenMoeError ERR_OPENMOE_TOKENIZER when the checkpoint came without one */
  get tokenizer(): Tokenizer {
    if (!this.parts.tokenizer) {
      throw new OpenMoeError(
        'ERR_OPENMOE_TOKENIZER',
        'The checkpoint has no spiece.model or tokenizer.json, so there is no text, only token ids. ' +
          'Copy the tokenizer files of the released models into its folder.',
      )
    }
    return this.parts.tokenizer
  }

  /** Bytes on the device. */
  get memory(): { weights: number; cache: number; cacheUsed: number } {
    const { total, used } = this.cache.bytes
    return {
      weights: this.weights.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
      cache: total,
      cacheUsed: used,
    }
  }

  stats(): ModelStats {
    const { finished, prompt, generated, steps, milliseconds } = this.counts
    return {
      requests: { ...this.engine.queue, finished },
      tokens: { prompt, generated },
      steps: { count: steps, milliseconds },
      moe: this.routing.toJSON(),
    }
  }

  /** Continues a text (or token ids, taken as they are). */
  generate(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): Promise<GenerateResult> {
    return this.start(() => this.stream(prompt, options).result)
  }

  /** The same, chunk by chunk: `for await (const { text } of model.stream('Call me')) ...`. */
  stream(prompt: string | ArrayLike<number>, options: GenerateOptions = {}): Generation {
    return this.generation(this.idsOf(prompt), options)
  }

  /** The assistant's next message, by the checkpoint's chat template or the released model's. */
  chat(messages: readonly ChatMessage[], options: GenerateOptions = {}): Promise<GenerateResult> {
    return this.start(() => this.streamChat(messages, options).result)
  }

  streamChat(messages: readonly ChatMessage[], options: GenerateOptions = {}): Generation {
    const prompt = renderChat(messages, this.tokenizer.chatTemplate)
    return this.generation(this.tokenizer.encode(prompt, { parseSpecial: true }), options)
  }

  /** One pass over whole sequences: logits, and any tensor inside (taps). */
  forward(sequences: readonly ArrayLike<number>[], options: ForwardOptions = {}): Promise<ForwardResult> {
    return this.start(() => {
      const mode = checkCapacity(options.expertCapacity ?? this.expertCapacity)
      return forward({ ...this.parts, kvDtype: this.kvDtype }, sequences, mode, options)
    })
  }

  /** Log-probability of every token of a text given those before it. */
  score(
    text: string | ArrayLike<number>,
    options: { expertCapacity?: ExpertCapacity; signal?: AbortSignal } = {},
  ): Promise<ScoreResult> {
    return this.start(async () => {
      const ids = this.idsOf(text)
      checkSequences([ids], this.config, 0)
      const mode = checkCapacity(options.expertCapacity ?? this.expertCapacity)
      return score({ ...this.parts, kvDtype: this.kvDtype }, ids, mode, options.signal)
    })
  }

  /** Ends every request with ERR_OPENMOE_DISPOSED and frees the memory. May be called twice and at any moment. */
  dispose(): Promise<void> {
    this.disposing ??= this.close()
    return this.disposing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  private get kvDtype(): 'f32' | 'bf16' {
    return this.parts.dtype === 'f32' ? 'f32' : 'bf16'
  }

  private async close(): Promise<void> {
    const error = new OpenMoeError('ERR_OPENMOE_DISPOSED', 'The model was disposed.')
    const ended = this.engine.close(error)
    // Queued behind the step in flight, which closing the device stops; the engine's end waits for exactly that.
    this.runner.dispose()
    this.cache.dispose()
    for (const tensor of this.weights.tensors) this.device.free(tensor)
    await Promise.all([ended, this.device.dispose()])
  }

  /** Argument errors of async methods reject, they do not throw. */
  private async start<T>(body: () => Promise<T>): Promise<T> {
    this.expectAlive()
    return body()
  }

  private idsOf(text: string | ArrayLike<number>): Int32Array {
    if (typeof text === 'string') return this.tokenizer.encode(text)
    checkIds(text, this.config) // an Int32Array would silently take 1.5 for 1, and 2^32 + 1 too
    return Int32Array.from(text)
  }

  private expectAlive(): void {
    if (this.disposing)
      throw new OpenMoeError('ERR_OPENMOE_DISPOSED', 'The model was disposed. Load it again.')
  }

  private generation(prompt: Int32Array, options: GenerateOptions): Generation {
    this.expectAlive()
    const checked = checkOptions(options, this.config.vocabSize)
    if (prompt.length === 0) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `The prompt has no tokens; a text starts with id ${this.config.bosTokenId}.`,
      )
    }
    const room = this.maxContext - prompt.length
    const maxTokens = checked.maxTokens ?? Math.min(256, room)
    if (room < 1 || maxTokens > room) {
      throw new OpenMoeError(
        'ERR_OPENMOE_CONTEXT_LENGTH',
        `The prompt has ${prompt.length} tokens${checked.maxTokens ? ` and maxTokens is ${maxTokens}` : ''}; ` +
          `the context is ${this.maxContext}. Shorten the prompt or lower maxTokens.`,
      )
    }
    const { tokenizer } = this.parts
    const isUmT5 = END_PIECES.every(([id, piece]) => tokenizer?.idToPiece(id) === piece)
    // The prompt goes through the decoder first: a blank before the first new word belongs to the text.
    const decoder = tokenizer?.decoder()
    decoder?.push(prompt)
    const generation = new Generation(this.engine, {
      prompt,
      maxTokens,
      options: checked,
      eosIds: [this.config.eosTokenId],
      endIds: isUmT5 ? END_PIECES.map(([id]) => id) : [],
      stops: checked.ignoreEos ? [] : [END_TEXT],
      decoder,
    })
    void generation.result.then(
      ({ usage }) => {
        this.counts.finished++
        this.counts.prompt += usage.promptTokens
        this.counts.generated += usage.completionTokens
      },
      () => this.counts.finished++,
    )
    return generation
  }

  private count(result: StepResult, milliseconds: number): void {
    this.counts.steps++
    this.counts.milliseconds += milliseconds
    this.routing.add(result.taps)
  }
}

function checkCapacity(mode: ExpertCapacity): ExpertCapacity {
  if (!EXPERT_CAPACITIES.includes(mode)) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `expertCapacity: '${String(mode)}' is unknown. Use ${EXPERT_CAPACITIES.join(', ')}.`,
    )
  }
  return mode
}
